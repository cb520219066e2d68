"""All instants of one program in one operation: which there are, which it was killed at, and what came of it."""

import threading
from collections import Counter

import msgspec

from tests.instants.strace import Call, Trace

DRY_RUNS = 3
"""So often an operation is done without a kill, to see which calls it makes: what comes each time must be hit."""
TRIES = 16
"""A call that has not come in so many runs in a row is given up: it came by chance. One that came in most runs, and at
which nobody could be killed all the same, has to be looked into."""
MOST = 3
"""So many times as often a kill is set at a call that keeps coming in other runs."""


class Kill(msgspec.Struct, frozen=True):
    """A kill, and what came of it.

    Attributes:
        arguments: of the call that was not made any more.
        outcome: what the client was answered.
        wrong: what was not right after it; empty when all was.
    """

    call: Call
    arguments: str
    outcome: str
    wrong: str


class Series:
    """One program in one operation. Several threads may ask it what to do next.

    Attributes:
        way: with which kind of herdpy.
        wrong: what went wrong when nothing was killed.
        tries: after so many runs without it a call is given up.
    """

    def __init__(
        self, way: str, operation: str, program: str, *, every: int = 1, offset: int = 0, tries: int = TRIES
    ) -> None:
        """Begin it, with only every ``every``-th of its instants if that is not 1."""
        self.way = way
        self.operation = operation
        self.program = program
        self.wrong: list[str] = []
        self.tries = tries
        self._every = every
        self._offset = offset
        self._lock = threading.Lock()
        self._arguments: dict[Call, str] = {}
        self._dry_runs = 0
        self._runs: list[set[Call]] = []
        self._tries: Counter[Call] = Counter()
        self._kills: dict[Call, Kill] = {}
        self._under_way: list[Call | None] = []

    def take(self) -> tuple[Call | None] | None:
        """Return where to kill next (None: nowhere, a dry run); or None when there is nothing to do now."""
        with self._lock:
            if self._dry_runs < DRY_RUNS:
                if self._dry_runs + self._under_way.count(None) >= DRY_RUNS:
                    return None
                self._under_way.append(None)
                return (None,)
            for call in self._chosen():
                if call not in self._under_way and not self._is_settled(call):
                    self._under_way.append(call)
                    return (call,)
            return None

    def is_done(self) -> bool:
        """Whether nothing is left, and nothing is under way."""
        with self._lock:
            return self._dry_runs >= DRY_RUNS and not self._under_way and all(map(self._is_settled, self._chosen()))

    def seen(self, call: Call | None, trace: Trace, outcome: str, wrong: str) -> None:
        """Take what was seen in a round."""
        with self._lock:
            self._under_way.remove(call)
            for found, arguments in trace.calls:
                self._arguments.setdefault(found, arguments)
            if trace.is_killed and call is not None:
                self._kills[call] = Kill(call, dict(trace.calls)[call], outcome, wrong)
                return
            if wrong:
                self.wrong.append(wrong)
            if call is None:
                self._dry_runs += 1
            run = {found for found, _ in trace.calls}
            self._runs.append(run)
            if call is not None:
                self._tries[call] += 1

    @property
    def kills(self) -> list[Kill]:
        """All of them."""
        return list(self._kills.values())

    def count_wrong(self) -> int:
        """How often something was not right, with a kill or without."""
        return len(self.wrong) + sum(bool(kill.wrong) for kill in self.kills)

    @property
    def missed(self) -> list[Call]:
        """Which come as a rule, and were never hit."""
        return [call for call in self._chosen() if call not in self._kills and self._comes_as_a_rule(call)]

    @property
    def given_up(self) -> list[Call]:
        """Which came in some runs, no more than half of them, and were never hit."""
        never_hit = [call for call in self._chosen() if call not in self._kills and not self._comes_as_a_rule(call)]
        return [call for call in never_hit if self._is_settled(call)]

    def rows(self) -> list[tuple[str, ...]]:
        """A table of all instants: index, call, its number, in how many runs without a kill it came, outcome,
        arguments."""
        chosen, given_up = set(self._chosen()), set(self.given_up)
        rows: list[tuple[str, ...]] = []
        for index, (call, arguments) in enumerate(self._arguments.items()):
            if call not in chosen:
                continue
            kill = self._kills.get(call)
            outcome = "given up" if call in given_up else "not hit" if kill is None else kill.outcome
            if kill is not None and kill.wrong:
                outcome = f"WRONG: {kill.wrong}"
            count = f"{self._came(call)} of {len(self._runs)}"
            rows.append(
                (
                    *(str(index), call.name, str(call.number), count, outcome.replace("\n", " | ")),
                    arguments if kill is None else kill.arguments,
                )
            )
        return rows

    def _is_settled(self, call: Call) -> bool:
        if call in self._kills or self._tries[call] >= MOST * self.tries:
            return True
        last = self._runs[-self.tries :]
        return len(last) == self.tries and not any(call in run for run in last)

    def _comes_as_a_rule(self, call: Call) -> bool:
        return 2 * self._came(call) > len(self._runs)

    def _came(self, call: Call) -> int:
        """In how many of the runs without a kill."""
        return sum(call in run for run in self._runs)

    def _chosen(self) -> list[Call]:
        return [call for index, call in enumerate(self._arguments) if index % self._every == self._offset % self._every]
