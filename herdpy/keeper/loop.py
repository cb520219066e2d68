"""The keeper's loop: epoll, a few timers, and nothing that wakes it up while there is nothing to do (epoll(7))."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Subject = TypeVar("Subject")


class Loop:
    """Calls back when a descriptor is ready or a time has come, until :meth:`stop`.

    A callback may be called once too often: a descriptor closed by one callback may be opened anew under the same
    number by the next, while events for the old one are still in hand. So each must bear to find nothing there.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[..., None]] = {}
        self._subjects: dict[int, object] = {}
        """What a descriptor's callback is called with, if with anything."""
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._on_error = on_error
        self._is_running = True
        self._soon: list[Callable[[], None]] = []
        self.turns = 0
        """How often it has been woken up."""
        self.on_turn: Callable[[], None] | None = None
        """Called at the end of each turn, if somebody waits for what any of them may bring."""

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``descriptor`` can be read."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._callbacks[descriptor] = callback

    def watch_for(self, descriptor: int, callback: Callable[[Subject], None], subject: Subject) -> None:
        """Call ``callback`` with ``subject`` whenever ``descriptor`` can be read: for many, a function of its own for
        each would take 250 bytes."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._callbacks[descriptor], self._subjects[descriptor] = callback, subject

    def watch_changes(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` when a file that the kernel makes has changed since it was read last (poll(2), POLLPRI)."""
        self._epoll.register(descriptor, select.EPOLLPRI)
        self._callbacks[descriptor] = callback

    def watch_writing(self, descriptor: int, *, wanted: bool, reading: bool = True) -> None:
        """Call a watched descriptor's callback when it can be written, too, or no longer.

        Args:
            reading: whether also when it can be read, as usual.
        """
        self._epoll.modify(descriptor, (select.EPOLLIN if reading else 0) | (select.EPOLLOUT if wanted else 0))

    def forget(self, descriptor: int) -> None:
        """Call no more for ``descriptor``; to be said before it is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._subjects.pop(descriptor, None)
            self._epoll.unregister(descriptor)

    def after(self, seconds: float, name: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` once in ``seconds``, unless a timer of this name runs already."""
        self._timers.setdefault(name, (time.monotonic() + seconds, callback))

    def cancel(self, name: str) -> None:
        """Forget the timer of this name, if there is one."""
        self._timers.pop(name, None)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, at the end of this turn: before anything is waited for."""
        self._soon.append(callback)

    def stop(self) -> None:
        """Return from :meth:`run` at the end of this turn."""
        self._is_running = False

    def run(self) -> None:
        """Turn until :meth:`stop`. What a callback raises goes to ``on_error``: nothing ends the keeper by mistake."""
        while self._is_running:
            self._end_turn()
            ready = self._epoll.poll(self._patience())
            self.turns += 1
            for descriptor, _ in ready:
                callback = self._callbacks.get(descriptor)
                if callback is None:
                    continue
                if descriptor in self._subjects:
                    self._call(callback, self._subjects[descriptor])
                else:
                    self._call(callback)
            if self._timers:
                now = time.monotonic()
                for name, (when, callback) in tuple(self._timers.items()):
                    if when <= now and self._timers.pop(name, None) is not None:
                        self._call(callback)
            if self.on_turn is not None:
                self._end_turn()
                self._call(self.on_turn)
        self._end_turn()
        self._epoll.close()

    def _end_turn(self) -> None:
        while self._soon:
            callbacks, self._soon = self._soon, []
            for callback in callbacks:
                self._call(callback)

    def _patience(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, min(when for when, _ in self._timers.values()) - time.monotonic())

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            self._on_error(error)
