"""Several ways to be ready at once."""

import msgspec

from herdpy.service import ProcessContext, Readiness


class AllOf(msgspec.Struct, frozen=True):
    """Ready when each way says so, one after the other: whichever adopts the main process comes first."""

    ways: tuple[Readiness, ...]

    async def run(self, context: ProcessContext) -> None:
        for way in self.ways:
            await way.run(context)
