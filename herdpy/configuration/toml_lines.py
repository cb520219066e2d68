"""Which line of a TOML document each key and each array's element is written on, which tomllib does not tell.

This reads documents that tomllib has accepted, so it only has to find its way, not to judge. Grammar: TOML 1.0.0.
"""

import re
import tomllib
from bisect import bisect_right

from herdpy.mistake import KeyPath

BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
BASIC_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
LITERAL_STRING = re.compile(r"'[^']*'")
# Up to two quotation marks may stand right before the three that close.
MULTILINE_BASIC_STRING = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
MULTILINE_LITERAL_STRING = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}")
OTHER_VALUE = re.compile(r"[^,\]}\n#]*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, of every key, table and array element of a valid TOML document.

    A table is where its header or its first key is; an array of tables, where its first header is.

    Args:
        text: accepted by tomllib; for anything else the result is arbitrary, or IndexError or AttributeError.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    starts = [0, *(match.end() for match in re.finditer("\n", scanner.text))]
    return {path: bisect_right(starts, offset) for path, offset in scanner.offsets.items()}


class _Scanner:
    """Walks through a document once, noting where each path is first written."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.offsets: dict[KeyPath, int] = {}
        self._last_index: dict[KeyPath, int] = {}
        """Of each array of tables."""

    def document(self) -> None:
        table: KeyPath = ()
        while not self._at_end():
            if self._next() == "[":
                table = self._header()
            else:
                self._key_and_value(table)

    def _at_end(self) -> bool:
        self._take(BLANK)
        return self.position >= len(self.text)

    def _next(self) -> str:
        """The character after blanks, newlines and comments."""
        self._take(BLANK)
        return self.text[self.position]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        assert match is not None, "not valid TOML"
        self.position = match.end()
        return match.group()

    def _note(self, path: KeyPath, offset: int) -> None:
        self.offsets.setdefault(path, offset)

    def _header(self) -> KeyPath:
        start = self.position
        is_array = self.text.startswith("[[", start)
        brackets = 2 if is_array else 1
        self.position += brackets
        *parents, last = self._key()
        self._next()
        self.position += brackets
        path: KeyPath = ()
        for key in parents:
            path += (key,)
            self._note(path, start)
            if path in self._last_index:
                path += (self._last_index[path],)
        path += (last,)
        self._note(path, start)
        if is_array:
            self._last_index[path] = self._last_index.get(path, -1) + 1
            path += (self._last_index[path],)
            self._note(path, start)
        return path

    def _key_and_value(self, table: KeyPath) -> None:
        start = self.position
        path = table
        for key in self._key():
            path += (key,)
            self._note(path, start)
        self._next()
        self.position += len("=")
        self._value(path)

    def _key(self) -> list[str]:
        """A dotted key, from its first character (blanks before it are skipped) to its last."""
        keys = []
        while True:
            first = self._next()
            if first in "\"'":
                quoted = self._take(BASIC_STRING if first == '"' else LITERAL_STRING)
                keys.append(tomllib.loads(f"key = {quoted}")["key"])
            else:
                keys.append(self._take(BARE_KEY))
            if self._next() != ".":
                return keys
            self.position += len(".")

    def _value(self, path: KeyPath) -> None:
        first = self._next()
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif self.text.startswith('"""', self.position):
            self._take(MULTILINE_BASIC_STRING)
        elif self.text.startswith("'''", self.position):
            self._take(MULTILINE_LITERAL_STRING)
        elif first == '"':
            self._take(BASIC_STRING)
        elif first == "'":
            self._take(LITERAL_STRING)
        else:
            self._take(OTHER_VALUE)

    def _array(self, path: KeyPath) -> None:
        self.position += len("[")
        index = 0
        while self._next() != "]":
            element = (*path, index)
            self._note(element, self.position)
            self._value(element)
            index += 1
            if self._next() == ",":
                self.position += len(",")
        self.position += len("]")

    def _inline_table(self, path: KeyPath) -> None:
        self.position += len("{")
        while self._next() != "}":
            self._key_and_value(path)
            if self._next() == ",":
                self.position += len(",")
        self.position += len("}")
