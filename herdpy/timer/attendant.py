"""The attendant of a timer, as a value."""

from typing import Literal

import msgspec

from herdpy.service import AttendantContext, End, Process, Step
from herdpy.timer.schedule import Calendar, Interval, Once

Overlap = Literal["skip", "queue", "stop-old"]


class RunOnSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """Runs a command whenever it is due, and when it is asked to."""

    schedule: Calendar | Interval | Once
    process: Process
    prepare: tuple[Step, ...] = ()
    """Done before each run."""
    aftermath: tuple[Step, ...] = ()
    """Done after each run."""
    overlap: Overlap = "skip"
    """What becomes of a run that is due while another is under way: none; it begins when that has ended (one waits,
    no more); that is stopped for it."""
    max_duration: float | None = None
    """Seconds after which a run is stopped."""
    jitter: float = 0.0
    """Seconds over which runs are spread."""
    record: str | None = None
    """The file that says up to when everything has been run; None means that nobody asks."""
    catch_up: float | None = None
    """Seconds up to which a run that was missed is made up for; None means: however late."""
    at_start: bool = False
    """Whether it also runs when the service starts."""
    makes_up: bool = False
    """Whether it runs when the service starts if its one moment has passed by then."""

    async def run(self, context: AttendantContext) -> End:
        """Run the command when it is due, until it never is again.

        Raises:
            StartFailure: its time zone is gone from the host.
        """
        from herdpy.timer.attendance import attend  # with trio and ctypes, for which herdpy check has no use

        return await attend(self, context)
