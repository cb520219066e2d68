"""The table: figures down, contestants across, and what was promised."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .measures import Effort

Found = dict[tuple[str, str], list[float]]
"""By figure and contestant: a value of each round."""


class Row(NamedTuple):
    """One line of the table."""

    figure: str
    words: str
    scale: float = 1000.0
    """What a value is multiplied by: most are seconds, and shown in milliseconds."""
    digits: int = 1
    limit: float | None = None
    """What herdpy is promised not to exceed."""
    base: tuple[str, str] | None = None
    """Figure and contestant that it is divided by, within the round; none divides by nothing."""
    least: bool = False
    """Whether the limit is the least instead."""


ROWS = (
    Row("python", "python -I -c pass, ms"),
    Row("imports", 'python -I -c "import trio, msgspec", ms'),
    Row("boot-1", "boot of 1, ms"),
    Row("boot-1", "  of the imports", 1, 2, 1.6, ("imports", "herdpy")),
    Row("boot-100", "boot of 100, ms", digits=0),
    Row("boot-1000", "boot of {thousand}, ms", digits=0),
    Row("boot-1000", "  of the C loop", 1, 2, 3.0, ("boot-1000", "C loop")),
    Row("shutdown-1", "shutdown of 1, ms"),
    Row("shutdown-100", "shutdown of 100, ms"),
    Row("shutdown-1000", "shutdown of {thousand}, ms", digits=0, limit=300),
    Row("status", "status of one, whole client, ms"),
    Row("status", "  of python -I -c pass", 1, 2, 1.35, ("python", "herdpy")),
    Row("status-all", "status of all {thousand}, ms"),
    Row("status-all", "  of python -I -c pass", 1, 2, 2.5, ("python", "herdpy")),
    Row("requests", "requests/s on the socket", 1, 0, 8000, least=True),
    Row("stop", "stop through the client, ms"),
    Row("start", "start through the client, ms"),
    Row("daemon-start", "the same of a daemon with a PID file, ms"),
    Row("respawn", "SIGKILL to new process, default delay, ms"),
    Row("respawn-0", "the same, no delay, ms", digits=2, limit=2.5),
    Row("respawn-flood", "the same, while another floods, ms", digits=2, limit=5.0),
    Row("storm-100", "100 killed at once, all back, ms", digits=0, limit=110),
    Row("storm-1000", "{thousand} killed at once, all back, ms", digits=0, limit=1100),
    Row("lines", "output captured, thousand lines/s", 1e-3, 0),
    Row("lines", "  of supervisor", 1, 2, 1.0, ("lines", "supervisor"), least=True),
    Row("lines", "  of s6-log", 1, 2, 1.3, ("lines", "s6"), least=True),
    Row("cpu-line", "CPU a line, us", 1, 3, 0.7),
    Row("lost", "lines lost or torn", 1, 0, 0),
    Row("doubled", "lines doubled", 1, 0, 0),
    Row("unstamped", "lines without a stamp", 1, 0, 0),
    Row("idle-cpu-1", "idle with 1: CPU, ms", 1),
    Row("idle-wake-1", "  wake-ups in {idle:g} s", 1, 0, 0),
    Row("idle-switches-1", "  context switches", 1, 0),
    Row("pss-1", "  PSS, MiB", 1, 1, 42),
    Row("processes-1", "  processes", 1, 0),
    Row("idle-cpu-1000", "idle with {thousand}: CPU, ms", 1),
    Row("idle-wake-1000", "  wake-ups in {idle:g} s", 1, 0, 0),
    Row("idle-switches-1000", "  context switches", 1, 0),
    Row("pss-1000", "  PSS, MiB", 1),
    Row("processes-1000", "  processes", 1, 0),
    Row("pss-each", "  PSS for each further service, KiB", 1, 1, 8),
)


def show(found: Found, names: Sequence[str], effort: Effort) -> bool:
    """Print the table in Markdown; returns whether herdpy keeps what is promised, as far as it was measured."""
    print(f"| {'':42} | {' | '.join(f'{name:>10}' for name in names)} | promised |")
    print(f"| --- |{' ---: |' * len(names)} --- |")
    kept = True
    for row in ROWS:
        values = {name: _value(found, row, name) for name in names}
        if all(value is None for value in values.values()):
            continue
        cells = (f"{'-' if value is None else format(value, f',.{row.digits}f'):>10}" for value in values.values())
        words = row.words.format(**effort._asdict())
        print(f"| {words:42} | {' | '.join(cells)} | {_verdict(row, values.get('herdpy'))} |")
        kept = kept and _keeps(row, values.get("herdpy"))
    return kept


def show_commands(commands: Mapping[str, Mapping[str, str]]) -> None:
    """Print the exact command lines that were used."""
    for name, used in commands.items():
        print(f"\n{name}:")
        for verb, line in used.items():
            print(f"  {verb:10} {line}")


def _value(found: Found, row: Row, name: str) -> float | None:
    values = found.get((row.figure, name), [])
    if row.base is not None:
        values = [value / base for value, base in zip(values, found.get(row.base, []), strict=False) if base]
    return statistics.median(values) * row.scale if values else None


def _keeps(row: Row, value: float | None) -> bool:
    if row.limit is None or value is None:
        return True
    return value >= row.limit if row.least else value <= row.limit


def _verdict(row: Row, value: float | None) -> str:
    if row.limit is None:
        return ""
    words = f"{'at least' if row.least else 'at most'} {row.limit:g}"
    return words if _keeps(row, value) else f"{words}: MISSED"
