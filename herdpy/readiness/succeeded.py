"""Services that are ready when a command says so."""

import msgspec
import trio

from herdpy.service import Process, ProcessContext


class Succeeded(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when a command ends with 0; it is run until it does."""

    process: Process
    pause: float
    """Seconds from one end to the next run."""

    async def run(self, context: ProcessContext) -> None:
        """Run it until it succeeds; what it writes is in the service's log.

        Raises:
            StartFailure: it cannot be executed.
        """
        program = self.process.command[0]
        context.progress(f"waiting until {program} succeeds")
        while (end := await context.execute(self.process)).code != 0:
            context.progress(f"waiting until {program} succeeds, which {end.reason.removeprefix('it ')}")
            await trio.sleep(self.pause)
