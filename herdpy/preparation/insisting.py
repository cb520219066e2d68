"""Steps that fail where something is missing that can be told beforehand, too."""

import msgspec

from herdpy.service import Context, Foresight, StartFailure
from herdpy.threads import in_thread


async def insist(foresight: Foresight) -> None:
    """Look in a thread, which is left to itself when we are cancelled: a disk, or a directory in the network, may hang.

    Raises:
        StartFailure: something is missing; in the foresight's words.
    """
    lack = await in_thread(foresight.lack, abandon_on_cancel=True)
    if lack is not None:
        raise StartFailure(lack)


class Insisting(msgspec.Struct, frozen=True, kw_only=True):
    """A step that does nothing but that."""

    async def run(self, context: Context) -> None:
        """Look.

        Raises:
            StartFailure: something is missing.
        """
        await insist(self)

    def lack(self) -> str | None:
        """What is missing, and how to get it, in one sentence; None when nothing is."""
        raise NotImplementedError
