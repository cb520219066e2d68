"""Something that happens once, and that others may wait for."""

import trio


class Flag:
    """What trio.Event is, without its 220 bytes for what nobody waits for: services and requests have several each."""

    __slots__ = ("_event", "_is_set")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._event: trio.Event | None = None

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Let it happen; wakes up who waits."""
        self._is_set = True
        if self._event is not None:
            self._event.set()
            self._event = None

    async def pass_by(self) -> None:
        """Wait until it has happened, without letting others run if it has: for who goes by a thousand, most of which
        have, and would take a turn of the loop for each."""
        if not self._is_set:
            await self.wait()

    async def wait(self) -> None:
        """Wait until it has happened."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()
