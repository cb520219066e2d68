"""What is told of a timer's runs."""

import time
from collections.abc import Iterable, Iterator

import msgspec

from herdpy.timer.duration import in_words
from herdpy.timer.memory import Memory, Run


def moment(seconds: float) -> str:
    """``2026-11-22 04:00:00 WET``, by the host's own time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def outcome(run: Run) -> str:
    """How a run ended: ``it exited with 0 after 3.2 s``."""
    return run.reason if run.seconds is None else f"{run.reason} after {in_words(run.seconds)}"


def table(memory: Memory, upcoming: Iterable[float], now: float) -> Iterator[str]:
    """A line for each run, the oldest first, and for each moment to come."""
    for run in reversed(memory.past):
        yield f"{moment(run.began or run.due)}  {_why(run)}: {outcome(run)}"
    if memory.current is not None:
        began = memory.current.began or now
        yield f"{moment(began)}  {_why(memory.current)}: under way for {in_words(max(0.0, now - began))}"
    if memory.waiting is not None:
        yield f"{moment(memory.waiting.due)}  {_why(memory.waiting)}: waits for the end of that"
    for seconds in upcoming:
        yield f"{moment(seconds)}  to come in {in_words(max(0.0, seconds - now))}"


def as_json(memory: Memory, upcoming: Iterable[float]) -> str:
    """The same for programs: moments in seconds since the epoch, durations in seconds."""

    def described(run: Run | None) -> dict[str, object] | None:
        if run is None:
            return None
        return {
            "why": run.why,
            "due": run.due,
            "began": run.began,
            "ended": run.ended,
            "seconds": run.seconds,
            "reason": run.reason or None,
            "exit-code": run.code,
        }

    runs = {
        "past": [described(run) for run in reversed(memory.past)],
        "under-way": described(memory.current),
        "waiting": described(memory.waiting),
        "to-come": list(upcoming),
    }
    return msgspec.json.format(msgspec.json.encode(runs)).decode()


def _why(run: Run) -> str:
    if run.why == "made up for" and run.began is not None:
        return f"made up for, {in_words(max(0.0, run.began - run.due))} late"
    return run.why
