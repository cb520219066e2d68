"""Killing a program at the entry of its n-th system call of a name: strace(1) and its injection of signals.

The signal is there when the call is entered, so the call is not made: what the program had done before is done, and
nothing after it. strace counts each name by itself, and for each thread that it is attached to; without ``-f`` these
are those that it is told, and what they fork is left alone. So (name, number) is exactly one call of one run.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

PATIENCE = 20
"""Seconds that strace may take to attach, and to detach."""
CALL = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)", re.MULTILINE)
"""A call's beginning; its end is on a line of its own, and begins otherwise, when another thread came between."""
UNSTEADY_NUMBER = re.compile(r"\b0x[0-9a-f]+\b")


class Call(msgspec.Struct, frozen=True):
    """The ``number``-th system call called ``name`` of a thread within an operation; the first is 1."""

    name: str
    number: int


class Trace(msgspec.Struct, frozen=True):
    """What a program called while strace was attached to it.

    Attributes:
        calls: in their order, with the beginning of their arguments.
        is_killed: whether the call that it was to be killed at is among them, so that it was.
        is_doubtful: whether that was entered while strace was leaving: then it may have been killed, or not.
    """

    calls: tuple[tuple[Call, str], ...]
    is_killed: bool
    is_doubtful: bool = False


class Strace:
    """strace, attached to threads of one program. To be closed by :meth:`end`."""

    def __init__(self, threads: Sequence[int], call: Call | None, output: Path) -> None:
        """Attach it.

        Args:
            threads: their numbers, all of one program.
            call: where the program is to be killed; None: nowhere.
            output: a file for what it writes.
        """
        self._output = output
        self._call = call
        inject = () if call is None else ("-e", f"inject={call.name}:signal=KILL:when={call.number}")
        self._process = subprocess.Popen(
            ["strace", "-s", "40", "-o", str(output), *inject, *(f"-p{thread}" for thread in threads)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for _ in threads:
            said = self._process.stderr.readline()
            if "attached" not in said:  # killed in the moment of attaching: that is an instant, too
                assert not said or self._process.wait(PATIENCE) == 0 or "No such process" in said, said
                break

    def end(self) -> Trace:
        """Detach, if the program still runs, and return what was seen."""
        assert self._process.stderr is not None
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE)
        text = self._output.read_text(errors="replace")
        counts: Counter[tuple[str, str]] = Counter()
        calls = {}
        for thread, name, arguments in CALL.findall(text):
            counts[thread, name] += 1
            call = Call(name, counts[thread, name])
            calls.setdefault(call, UNSTEADY_NUMBER.sub("0x", arguments)[:100])
        arguments = None if self._call is None else calls.get(self._call)
        is_leaving = arguments is not None and "<detached" in arguments
        return Trace(tuple(calls.items()), arguments is not None and not is_leaving, is_leaving)
