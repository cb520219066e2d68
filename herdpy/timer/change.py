"""How a timer takes it that it is declared otherwise while it runs. Pure."""

import msgspec

from herdpy.service import Effect, Service
from herdpy.timer.attendant import RunOnSchedule


class TimerChange(msgspec.Struct, frozen=True):
    """It goes by what is declared now at once; a run that is under way ends as it began."""

    def effect(self, before: Service, after: Service) -> Effect:
        """What has to be done."""
        if isinstance(before.attendant, RunOnSchedule):
            return Effect(kind="now", words="takes effect now")
        return Effect(kind="next-start", words="takes effect at its next start")
