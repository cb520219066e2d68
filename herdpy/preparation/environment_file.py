"""Files of environment variables, in the plain part of systemd's format (systemd.exec(5), EnvironmentFile=).

    # a comment, and so is a line that begins with ;
    NAME=value              blanks around the value are not part of it; a backslash takes the next character as it is
    NAME='any $ or " text'  in single quotes everything but a single quote, over several lines if need be
    NAME="a \\"b\\" c"        in double quotes a backslash escapes ", \\, ` and $, and joins two lines at a line's end

Nothing is expanded. Other than systemd, we skip no line that makes no sense: it is told. What a file holds may be
secret, so a mistake is told by its line's number and never by its words.
"""

import re
from collections.abc import Mapping

import msgspec

from herdpy.files import content
from herdpy.service import StartFailure
from herdpy.threads import in_thread

LARGEST = 128 * 1024
"""Bytes of a file; the environment must go through the keeper's line with everything else (160 KiB)."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_UNQUOTED = re.compile(r"(?:[^\\\n]|\\(?:.|\Z))*", re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'", re.DOTALL)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BLANK = " \t\r"


class BadLine(Exception):  # noqa: N818 - it is the reader's mistake, not the program's
    """A line that makes no sense.

    Attributes:
        line: its number, counted from 1.
        problem: what is wrong with it, without its words.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line
        self.problem = problem


class EnvironmentFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of variables, read each time that the process is spawned."""

    path: str
    may_be_missing: bool = False

    async def read(self) -> Mapping[str, str]:
        """Read it, in a thread: it may lie on a file system that hangs.

        Raises:
            StartFailure: it cannot be read, or a line of it makes no sense.
        """

        try:
            read = await in_thread(content, self.path, LARGEST, abandon_on_cancel=True)
        except FileNotFoundError:
            if self.may_be_missing:
                return {}
            raise StartFailure(
                f'there is no environment file {self.path}; make it, or write "-{self.path}" if it may be missing'
            ) from None
        except OSError as error:
            raise StartFailure(f"cannot read the environment file {self.path}: {error.strerror}") from None
        try:
            return parse(read)
        except BadLine as bad:
            raise StartFailure(f"{self.path}:{bad.line}: {bad.problem}") from None


def parse(read: bytes) -> dict[str, str]:
    """The variables that a file sets; of one that is set twice, the last value.

    Raises:
        BadLine: at the first line that makes no sense.
    """
    try:
        text = read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadLine(read.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    variables: dict[str, str] = {}
    position = 0
    while position < len(text):
        end = _end_of_line(text, position)
        words = text[position:end].strip(_BLANK)
        if not words or words[0] in "#;":
            position = end + 1
            continue
        line = text.count("\n", 0, position) + 1
        name, equals, _ = words.partition("=")
        name = name.rstrip(_BLANK)
        if not equals:
            raise BadLine(line, "expected NAME=VALUE, or # before a comment")
        if not _NAME.match(name):
            also = "; leave out export" if name.startswith("export") else ""
            raise BadLine(line, f"before = belongs a name of letters, digits and _, which no digit begins{also}")
        variables[name], position = _value(text, text.index("=", position) + 1, line)
        if "\0" in variables[name]:
            raise BadLine(line, "a variable's value cannot hold a NUL character")
    return variables


def _value(text: str, position: int, line: int) -> tuple[str, int]:
    """The value that begins at a position, and where the next line begins."""
    while text[position : position + 1] in {" ", "\t"}:
        position += 1
    quote = text[position : position + 1]
    if quote not in {"'", '"'}:
        found = _UNQUOTED.match(text, position)
        assert found is not None  # it matches nothing, too
        return _unescaped(_without_blanks_at_end(found[0])), found.end() + 1
    quoted = (_SINGLE if quote == "'" else _DOUBLE).match(text, position)
    if quoted is None:
        raise BadLine(line, f"the value's {quote} is never closed")
    end = _end_of_line(text, quoted.end())
    if text[quoted.end() : end].strip(_BLANK):
        line += quoted[0].count("\n")
        raise BadLine(line, f"there is something after the closing {quote}; put the whole value into the quotes")
    return quoted[1] if quote == "'" else _unescaped(quoted[1], only='"\\`$\n'), end + 1


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _without_blanks_at_end(value: str) -> str:
    """A value without the blanks at its end, but for one that a backslash has taken as it is."""
    bare = value.rstrip(_BLANK)
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return bare + value[len(bare) : len(bare) + backslashes % 2]


def _unescaped(value: str, only: str = "") -> str:
    """A value with its backslashes resolved: before a line's end both go, else the next character stays.

    Args:
        only: what a backslash escapes; before anything else it stays, too. Empty means everything.
    """

    def resolve(escape: re.Match[str]) -> str:
        character = escape[1]
        if character == "\n":
            return ""
        return character if not only or character in only else escape[0]

    return re.sub(r"\\(.|\Z)", resolve, value, flags=re.DOTALL)
