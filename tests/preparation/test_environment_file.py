"""Environment files, as systemd.exec(5) describes them, and what is told of one that makes no sense."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from herdpy.preparation.environment_file import LARGEST, BadLine, EnvironmentFile, parse
from herdpy.service import StartFailure


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("# A=1\n; B=2\n\n  # C=3\n \t\nD=4\n", {"D": "4"}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("  A = b c  \n", {"A": "b c"}),
        ("A=b # no comment\n", {"A": "b # no comment"}),
        ("A=b=c==\n", {"A": "b=c=="}),
        ("A=1\r\nB='2'\r\nC=\"3\" \r\n", {"A": "1", "B": "2", "C": "3"}),
        ("\ufeffA=1\n", {"A": "1"}),
        ("_a9=ä\n", {"_a9": "ä"}),
        # unquoted: a backslash takes the next character as it is, and joins lines
        ("A=b\\\\c\\d\n", {"A": "b\\cd"}),
        ("A=b\\\nc\nB=2\n", {"A": "bc", "B": "2"}),
        ("A=b\\ \n", {"A": "b "}),
        ("A=b\\\\ \n", {"A": "b\\"}),
        ('A=$HOME `x` it\'s "so"\n', {"A": '$HOME `x` it\'s "so"'}),
        ("A=b\\", {"A": "b"}),
        # in single quotes
        ("A=' b \"c\" $d \\n '\n", {"A": ' b "c" $d \\n '}),
        ("A='b\n# c\nd'\nB=2", {"A": "b\n# c\nd", "B": "2"}),
        # in double quotes
        ("A=\" b 'c' # \"  \n", {"A": " b 'c' # "}),
        ('A="\\"\\\\\\`\\$\\n\\a"\n', {"A": '"\\`$\\n\\a'}),
        ('A="b\\\nc\nd"\nB=2', {"A": "bc\nd", "B": "2"}),
        ("A=\"\"\nB=''", {"A": "", "B": ""}),
    ],
)
def test_what_a_file_sets(text: str, variables: dict[str, str]) -> None:
    assert parse(text.encode()) == variables


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (b"A=1\n\nsecret\n", 3, "expected NAME=VALUE"),
        (b"A='x\ny'\nexport B=secret\n", 3, "leave out export"),
        (b"A=1\n2B=secret\n", 2, "which no digit begins"),
        (b"=secret\n", 1, "a name"),
        (b"sec-ret=1\n", 1, "a name"),
        (b"A=1\nB='secret\n\n", 2, "' is never closed"),
        (b'A="secret\\"\n', 1, '" is never closed'),
        (b"A='b'secret\n", 1, "after the closing '"),
        (b"A='b\nc' # secret\n", 2, "after the closing '"),
        (b"A=1\nB=\xffsecret\n", 2, "not UTF-8"),
        (b"A=secret\0\n", 1, "NUL"),
    ],
)
def test_what_makes_no_sense_is_told_by_its_line_and_not_its_words(text: bytes, line: int, words: str) -> None:
    with pytest.raises(BadLine) as bad:
        parse(text)
    assert bad.value.line == line
    assert words in bad.value.problem
    assert "sec" not in str(bad.value)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.dictionaries(names, values))
def test_any_value_can_be_quoted(variables: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        for character in '\\"`$':
            value = value.replace(character, f"\\{character}")
        return f'"{value}"'

    text = "".join(f"{name}={quoted(value)}\n# x\n" for name, value in variables.items())
    assert parse(text.encode()) == variables


@given(st.binary() | st.text("A=\\\"' \n#$", max_size=30).map(str.encode))
@example(b"A=\\")
@example(b"A='\\")
def test_whatever_a_file_holds_there_is_an_answer(text: bytes) -> None:
    try:
        variables = parse(text)
    except BadLine as bad:
        assert 1 <= bad.line <= text.count(b"\n") + 1
    else:
        assert all(name and "=" not in name and "\0" not in name + value for name, value in variables.items())


async def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "variables"
    path.write_text("A='1'\n")
    assert await EnvironmentFile(path=str(path)).read() == {"A": "1"}


async def test_a_file_may_be_missing_only_where_it_says_so(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert await EnvironmentFile(path=missing, may_be_missing=True).read() == {}
    with pytest.raises(StartFailure, match=f'there is no environment file {missing}; .* "-{missing}"'):
        await EnvironmentFile(path=missing).read()


async def test_what_cannot_be_read_is_told_in_a_line(tmp_path: Path) -> None:
    wrong, large, fifo = tmp_path / "wrong", tmp_path / "large", tmp_path / "fifo"
    wrong.write_text("A=1\nnonsense\n")
    large.write_bytes(b"#" * (LARGEST + 1))
    os.mkfifo(fifo)
    for path, words in ((wrong, f"{wrong}:2: expected"), (large, "larger than 128 KiB"), (fifo, "no regular file")):
        for may_be_missing in (False, True):
            with pytest.raises(StartFailure, match=words):
                await EnvironmentFile(path=str(path), may_be_missing=may_be_missing).read()
