"""What is told of a supervisor that crashed."""

from pathlib import Path

import pytest

from herdpy.keeper.last_words import last_words

STAMP = "2026-11-22 14:44:34 "
GROUP = """\
  | ExceptionGroup: Exceptions from Trio nursery (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "run.py", line 81, in supervise
    |     registry.take_plan(plan)
    |     ^^^^^^^^^^^^^^^^^^
    | AttributeError: 'Registry' object has no attribute 'take_plan'
    +------------------------------------
keeper: the supervisor (PID 27445) was killed by signal 9; starting a new one
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (GROUP, "AttributeError: 'Registry' object has no attribute 'take_plan'"),
        ("supervisor-begins pid=1\nValueError: a\nkeeper: b\nlogger: c\n", "ValueError: a"),
        ("keeper: only this\n", ""),
        ("", ""),
        ("Error: " + "x" * 1000, "Error: " + "x" * 493),
    ],
)
def test_the_last_line_that_is_not_ours(tmp_path: Path, said: str, words: str) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{STAMP}{line}\n" for line in said.splitlines()))
    assert last_words(str(log)) == words


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert last_words(str(tmp_path / "none")) == ""
    assert last_words(str(tmp_path)) == ""
    (tmp_path / "bytes").write_bytes(STAMP.encode() + b"\xff\xfe\n")
    assert last_words(str(tmp_path / "bytes")) == "\ufffd\ufffd"
