"""The line locator against documents whose writer knows where it wrote what."""

import datetime
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from herdpy.configuration.toml_lines import key_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\"'\\\n#[]{}=,."), max_size=12)
SCALARS = (
    st.integers(-(10**18), 10**18)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.dates()
    | st.datetimes(min_value=datetime.datetime(1000, 1, 1))
    | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
BLANKS = st.sampled_from(["", " ", "\t"])
BREAKS = st.sampled_from(["", "", " ", "\n", "\n\n", " # ] } ''' \"\"\" [x]\n", "\r\n"])


class Writer:
    """Writes a document as its author might, noting the line of each path."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[tuple[str | int, ...], int] = {}

    def note(self, path: tuple[str | int, ...]) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], self.text.count("\n") + 1)

    def key(self, key: str) -> str:
        is_bare = key != "" and key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        if is_bare and self.draw(st.booleans()):
            return key
        if not set("'\n\r") & set(key) and key.isprintable() and self.draw(st.booleans()):
            return f"'{key}'"
        return basic(key)

    def string(self, value: str) -> str:
        if "'''" not in value and not value.endswith("'") and is_plain(value) and self.draw(st.booleans()):
            return f"'''\n{value}'''"
        if '"' not in value and self.draw(st.booleans()):
            return '"""\n' + "\n".join(basic(line)[1:-1] for line in value.split("\n")) + '"""'
        return basic(value)

    def value(self, path: tuple[str | int, ...], value: object) -> None:
        match value:
            case str():
                self.text += self.string(value)
            case bool():
                self.text += str(value).lower()
            case int() | float():
                self.text += repr(value)
            case datetime.datetime():
                self.text += value.isoformat(sep=self.draw(st.sampled_from("T ")))
            case datetime.date():
                self.text += value.isoformat()
            case list():
                self.text += "["
                for index, item in enumerate(value):
                    self.text += self.draw(BREAKS)
                    self.note((*path, index))
                    self.value((*path, index), item)
                    self.text += self.draw(BREAKS)
                    if index + 1 < len(value) or self.draw(st.booleans()):
                        self.text += ","
                self.text += self.draw(BREAKS) + "]"
            case dict():
                self.text += "{"
                for index, (key, item) in enumerate(value.items()):
                    self.text += ("," if index else "") + self.draw(BLANKS)
                    self.assignment(path, key, item)
                self.text += self.draw(BLANKS) + "}"

    def assignment(self, path: tuple[str | int, ...], key: str, value: object) -> None:
        keys = self.key(key)
        path = (*path, key)
        while isinstance(value, dict) and len(value) == 1 and self.draw(st.booleans()):
            [(key, value)] = value.items()
            keys += self.draw(BLANKS) + "." + self.draw(BLANKS) + self.key(key)
            path = (*path, key)
        self.note(path)
        self.text += keys + self.draw(BLANKS) + "=" + self.draw(BLANKS)
        self.value(path, value)

    def table(self, header: list[str], path: tuple[str | int, ...], table: dict[str, object]) -> None:
        below = {}
        for key, value in table.items():
            is_tables = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
            if (isinstance(value, dict) or is_tables) and self.draw(st.booleans()):
                below[key] = value
                continue
            self.text += self.draw(st.sampled_from(["", "\n", "  ", "# comment\n"]))
            self.assignment(path, key, value)
            self.text += self.draw(st.sampled_from(["\n", " # why\n", "\r\n"]))
        for key, value in below.items():
            inner = [*header, self.key(key)]
            if isinstance(value, dict):
                has_headers_only = value and all(isinstance(item, dict) for item in value.values())
                if not (has_headers_only and self.draw(st.booleans())):
                    self.note((*path, key))
                    self.text += "[" + self.draw(BLANKS) + ".".join(inner) + self.draw(BLANKS) + "]\n"
                    self.table(inner, (*path, key), value)
                else:
                    for name, item in value.items():
                        self.note((*path, key, name))
                        self.text += f"[{'.'.join(inner)} . {self.key(name)}]\n"
                        self.table([*inner, self.key(name)], (*path, key, name), item)
            else:
                for index, item in enumerate(value):
                    self.note((*path, key, index))
                    self.text += f"[[{'.'.join(inner)}]] # next\n"
                    self.table(inner, (*path, key, index), item)


def is_plain(value: str) -> bool:
    """Whether a literal string can hold it, and reading it changes nothing."""
    return all(char == "\n" or char.isprintable() for char in value)


def basic(value: str) -> str:
    escapes = {'"': '\\"', "\\": "\\\\"}
    body = "".join(escapes.get(char, char) if char.isprintable() else f"\\U{ord(char):08x}" for char in value)
    return f'"{body}"'


@given(st.data())
def test_every_path_is_found_on_the_line_where_it_was_written(data: st.DataObject) -> None:
    tree = data.draw(st.dictionaries(TEXT, VALUES, max_size=6))
    writer = Writer(data.draw)
    writer.table([], (), tree)
    assert tomllib.loads(writer.text) == tree, writer.text
    assert key_lines(writer.text) == writer.lines, writer.text


def test_multi_line_strings_and_quotation_marks_at_their_ends() -> None:
    text = '''\
a = """
first "" second \\""" third
"""""
b = \'\'\'
# no comment
it''s [here]
\'\'\'\'\'
c = "# \\" ]"
last = 'C:\\'
'''
    assert tomllib.loads(text)["last"] == "C:\\"
    assert key_lines(text) == {("a",): 1, ("b",): 4, ("c",): 8, ("last",): 9}


def test_a_table_is_where_it_is_first_mentioned() -> None:
    lines = key_lines("[a.b.c]\nx = 1\n[a]\ny = 2\n[[d]]\n[[d]]\n[d.e]\nz = 3\n")
    assert lines["a",] == lines["a", "b"] == lines["a", "b", "c"] == 1
    assert lines["a", "y"] == 4
    assert lines["d",] == lines["d", 0] == 5
    assert lines["d", 1] == 6
    assert lines["d", 1, "e"] == 7
    assert lines["d", 1, "e", "z"] == 8
