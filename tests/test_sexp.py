"""S-expressions as Guile has them."""

import contextlib
import gc
import math
import subprocess
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdpy.sexp import Keyword, Pair, Raw, Reader, SexpError, Symbol, read, write

ODD = r"""('x `(a ,b ,@c) #{a b}# #{}# #{a\x28;b}# #:kw (a . b) (a b . c) 0.1 1/3 -inf.0 "q\"\\\x1b\u200b\n" ; comment
#| block ( #| nested |# |# #t #f () [d] #;(hidden) e)"""


def same(one: object, other: object) -> bool:
    """Equality that tells a symbol from a string and 1 from #t."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Pair) and isinstance(other, Pair):
        return same(one.head, other.head) and same(one.tail, other.tail)
    return one == other


names = st.text(st.characters(exclude_categories=["Cs"]))
atoms = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.fractions().filter(lambda value: value.denominator != 1)
    | names
    | names.map(Symbol)
    | names.map(Keyword)
)
values = st.recursive(
    atoms,
    lambda children: st.lists(children, max_size=6) | st.builds(Pair, children, atoms),
    max_leaves=30,
)


@given(values)
def test_what_is_written_is_read_again(value: object) -> None:
    assert same(read(write(value)), value)


@given(values.map(lambda value: [value]), st.lists(st.integers(1, 40)))
def test_the_end_of_an_expression_is_found_however_it_is_cut(value: object, lengths: list[int]) -> None:
    text = write(value)
    data = f"  ; a comment (\n{text}\n{text} {ODD}".encode()
    reader = Reader()
    found: list[str] = []
    while data:
        length = lengths.pop() if lengths else len(data)
        found += reader.feed(data[:length])
        data = data[length:]
    assert found == [text, text, ODD]


def test_it_may_come_byte_by_byte_or_cut_anywhere() -> None:
    data = ODD.encode()
    reader = Reader()
    assert [text for byte in data for text in reader.feed(bytes([byte]))] == [ODD]
    for cut in range(len(data)):
        reader = Reader()
        assert reader.feed(data[:cut]) + reader.feed(data[cut:]) == [ODD], data[:cut]
    # What is plain but for one escape, cut there, must not be counted in one go.
    reader = Reader()
    assert reader.feed(b'("a\\') + reader.feed(b'"(" b)') == [r'("a\"(" b)']


@given(st.text("()\"\\;#{}|'`,.: \nabtx01-+/e[]@", max_size=60))
@settings(max_examples=500)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = read(text)
    except SexpError:
        return
    assert same(read(write(value)), value)


@given(st.binary(max_size=80))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    try:
        at_once = Reader().feed(data)
    except SexpError:
        return
    reader = Reader()
    assert [text for byte in data for text in reader.feed(bytes([byte]))] == at_once


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#{a b}#", Symbol("a b")),
        ("#{}#", Symbol("")),
        ("#{1}#", Symbol("1")),
        ("#{a;b}#", Symbol("a;b")),
        (r"#{a\x28;b}#", Symbol("a(b")),
        ("#:kw", Keyword("kw")),
        ("(a . b)", Pair(Symbol("a"), Symbol("b"))),
        ("0.1", 0.1),
        ("1/3", Fraction(1, 3)),
        ("1.0e21", 1e21),
        ("+inf.0", math.inf),
        ("(quote a)", [Symbol("quote"), Symbol("a")]),
        (r'"\" \\ \n \t \r \a \x1b \u200b é"', '" \\ \n \t \r \a \x1b \u200b é'),
        ("()", []),
        ("#t", True),
    ],
)
def test_guile_notation_both_ways(text: str, value: object) -> None:
    assert same(read(text), value)
    assert write(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'x", [Symbol("quote"), Symbol("x")]),
        ("(a . (b c))", [Symbol("a"), Symbol("b"), Symbol("c")]),
        ("(a . 'b)", [Symbol("a"), Symbol("quote"), Symbol("b")]),
        ("4/2", 2),
        ("-5", -5),
        ("+5", 5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1_0", Symbol("1_0")),
        ("infinity", Symbol("infinity")),
        ("٣", Symbol("٣")),
        ("-", Symbol("-")),
        ("...", Symbol("...")),
        ("1+", Symbol("1+")),
        ("1/0", Symbol("1/0")),
        ("don't", Symbol("don't")),
        ('"a\\\nb"', "ab"),
        ('("a""b"c"d")', ["a", "b", Symbol("c"), "d"]),
    ],
)
def test_reading(text: str, value: object) -> None:
    assert same(read(text), value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(",
        ")",
        "a b",
        "(. a)",
        "(a . b . c)",
        "(a .)",
        "#<foo>",
        "#(1)",
        "#\\a",
        "(')",
        '"abc',
        r'"\q"',
        r'"\x1"',
        "#{a",
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(SexpError):
        read(text)


def test_a_lone_surrogate_is_written_as_guile_could_hold_it() -> None:
    assert write(["\udcff", Symbol("\udcff")]) == '("\ufffd" #{\ufffd}#)'


def test_what_has_no_notation_is_refused() -> None:
    with pytest.raises(SexpError, match="object"):
        write([object()])


def test_raw_text_is_written_as_it_is() -> None:
    assert write([Raw("(a . b)"), "c"]) == '((a . b) "c")'


def test_a_hundred_thousand_parentheses_are_survived() -> None:
    text = "(" * 100_000 + ")" * 100_000
    assert Reader().feed(text.encode()) == [text]
    assert write(read(text)) == text
    with pytest.raises(SexpError, match="nested"):
        read(text, depth=99_999)
    with pytest.raises(SexpError, match="nested"):
        Reader(depth=99_999).feed(text.encode())


def test_a_size_limit_is_kept_across_pieces() -> None:
    reader = Reader(size=100)
    with pytest.raises(SexpError, match="100 bytes"):
        for _ in range(200):
            reader.feed(b'("')
    assert Reader(size=100).feed(b"(a)" * 100) == ["(a)"] * 100


@pytest.mark.parametrize("start", [b"a", b"'(a)", b")", b"\0", b'"'])
def test_only_a_list_may_begin(start: bytes) -> None:
    with pytest.raises(SexpError, match="begins with"):
        Reader().feed(start)


def test_a_blank_is_what_guile_takes_for_one() -> None:
    for character in map(chr, range(0x3001)):
        if character in " \t\r\n\f":
            assert read(f"(a{character}b)") == ["a", "b"]
        elif character.isspace():
            assert read(f"(a{character}b {character})") == [f"a{character}b", character]


def test_what_was_whole_before_an_error_is_not_lost() -> None:
    reader = Reader()
    assert reader.feed(b"(a)(b) rest") == ["(a)", "(b)"]
    with pytest.raises(SexpError, match="begins with 'r'"):
        reader.feed(b"(c)")


@pytest.mark.parametrize(
    "piece", [b'("a" b)', rb'"\"\n"', b"#{a}#", b"#t ", b"; c\n", b"#|x|#", b"(((", b"'a ", b'"' * 2, rb"\\", b"a"]
)
@pytest.mark.parametrize("step", [1, 4096])
def test_the_work_is_linear(piece: bytes, step: int) -> None:
    """Ten times the length takes ten times as long, not a hundred; 40 leaves room for a busy machine."""

    def cost(count: int) -> float:
        data = b"(" + piece * count
        gc.disable()  # as timeit does: its passes cost what else is alive
        begin = time.process_time()
        try:
            reader = Reader(depth=10**9)
            for position in range(0, len(data), step):
                reader.feed(data[position : position + step])
            if step > 1:
                with contextlib.suppress(SexpError):
                    read(data.decode(), depth=10**9)
            return time.process_time() - begin
        finally:
            gc.enable()

    count = (2_000 if step == 1 else 20_000) // len(piece)
    assert min(cost(count * 10) for _ in range(2)) < 40 * max(min(cost(count) for _ in range(3)), 0.0002)


def test_importing_it_brings_in_nothing_dear() -> None:
    script = (
        "import sys; before = set(sys.modules); sys.path.append(sys.argv[1]); import herdpy.protocol;"
        " print(sorted(set(sys.modules) - before))"
    )
    root = __file__.rpartition("/tests/")[0]
    output = subprocess.run(
        [sys.executable, "-IS", "-c", script, root], capture_output=True, text=True, check=True
    ).stdout
    assert output == "['herdpy', 'herdpy.protocol', 'herdpy.sexp']\n"
