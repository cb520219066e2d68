"""Services that are ready when they have not ended at once."""

import msgspec
import trio

from herdpy.service import ProcessContext


class StaysAlive(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when the process has lived for a while: of one that tells nothing, and whose work leaves nothing to see."""

    seconds: float

    async def run(self, context: ProcessContext) -> None:
        """Wait; the process's end ends the start meanwhile."""
        context.progress("waiting whether it ends at once")
        await trio.sleep(self.seconds)
