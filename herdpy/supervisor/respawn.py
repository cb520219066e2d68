"""Whether a service that ended by itself is started again, and after what delay."""

import os

import msgspec

from herdpy.service import End, Respawn
from herdpy.supervisor.recent import with_newest

SHORTEST_DELAY, LONGEST_DELAY = 0.1, 60.0
"""Seconds between two tries of a service that has not run yet, unless it asks for longer ones."""


class Verdict(msgspec.Struct, frozen=True):
    """What a policy says of an end."""

    delay: float | None
    """Seconds until the next start; None when there is to be none."""
    reason: str
    """Why it ended or, when that is more to the point, why it is not started again; in words that follow "It"."""
    disables: bool = False
    """Whether nothing may start it until someone has looked into it."""


class History:
    """A service's ends, as far as its policy counts them; times are CLOCK_BOOTTIME seconds."""

    __slots__ = ("deaths", "running_since", "streak")

    def __init__(self) -> None:
        self.deaths: tuple[float, ...] = ()
        """Newest first, as many as the policy's limit may need."""
        self.running_since: float | None = None
        self.streak = 0
        """So many ends in a row without a stretch of health."""

    def copy(self) -> "History":
        """Return another one with the same, for a judgement that does not count."""
        other = History()
        other.deaths, other.running_since, other.streak = self.deaths, self.running_since, self.streak
        return other

    def forget(self) -> None:
        """Somebody starts the service: what was before does not count."""
        self.deaths = ()
        self.streak = 0

    def judge(self, policy: Respawn, end: End, now: float) -> Verdict:
        """Count an end, unless the policy leaves it at that, and say what follows."""
        if end.code is not None and end.code in policy.final:
            return Verdict(None, f"{end.reason}, after which it is not to be respawned")
        if policy.only_on_failure and end.code is not None and end.code in policy.success:
            return Verdict(None, end.reason)
        if self.running_since is not None and now - self.running_since >= policy.healthy_after:
            self.streak = 0
        self.running_since = None
        self.streak += 1
        self.deaths = with_newest(now, self.deaths, policy.limit)
        if len(self.deaths) >= policy.limit and now - self.deaths[policy.limit - 1] <= policy.interval:
            times = f"{policy.limit} times in {policy.interval:g} s"
            why = f"respawning too fast: it ended {times}, the last time because {end.reason}"
            return Verdict(None, why, disables=True)
        return Verdict(_delay(policy, self.streak), end.reason)


def patient(policy: Respawn) -> Respawn:
    """A policy for a service that has not run yet: what keeps it from starting may take its time, and each try may
    cost more than one of what fails at once."""
    delay = max(policy.delay, SHORTEST_DELAY)
    longest = policy.delay_limit if policy.delay_limit is not None else LONGEST_DELAY
    return msgspec.structs.replace(policy, delay=delay, delay_limit=max(delay, longest))


def _delay(policy: Respawn, streak: int) -> float:
    """Seconds until the next start after so many ends in a row."""
    if policy.delay_limit is None:
        return policy.delay
    doubled = min(policy.delay_limit, policy.delay * 2.0 ** min(streak - 1, 64))
    return doubled * (0.9 + 0.2 * os.urandom(1)[0] / 255)  # the module random is not worth its import
