"""S-expressions as GNU Guile reads and writes them: the notation of the control protocol.

Booleans, integers and floats are Python's; a string is a ``str``, a symbol a :class:`Symbol`, a keyword a
:class:`Keyword`, a proper list a ``list``, a dotted pair a :class:`Pair`, a fraction a ``fractions.Fraction`` (imported
when the first one is met). The notation is that of the Guile Reference Manual, "Scheme Syntax", "String Syntax" and
"Symbol Read Syntax"; vectors, characters and ``#<objects>`` are not part of the protocol and are refused.

Neither ``re`` nor recursion is used: the client's whole run is a few milliseconds, and a hundred thousand nested
parentheses must not end it, nor the server.
"""

DEPTH = 200_000
"""Nested parentheses accepted unless the caller says otherwise."""
SIZE = 64 * 1024 * 1024
"""Bytes of one expression accepted unless the caller says otherwise."""


class SexpError(ValueError):
    """A text that is no S-expression, or a value that has none; ``str()`` says what is wrong with it."""


class Symbol(str):
    """A symbol. Compares equal to the string of its name: use ``isinstance`` where the difference matters."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Symbol({str.__repr__(self)})"


class Keyword(str):
    """A keyword, ``#:name``, by its name."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Keyword({str.__repr__(self)})"


class Raw(str):
    """A text that already is an S-expression: :func:`write` puts it in as it is."""

    __slots__ = ()


class Pair:
    """A dotted pair, ``(head . tail)``; the tail is never a list, as that would make the whole a list."""

    __slots__ = ("head", "tail")

    def __init__(self, head: object, tail: object) -> None:
        self.head = head
        self.tail = tail

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pair) and self.head == other.head and self.tail == other.tail

    def __hash__(self) -> int:
        return hash((self.head, self.tail))

    def __repr__(self) -> str:
        return f"Pair({self.head!r}, {self.tail!r})"


class _Prefix:
    """What stands before an expression and changes it: a quotation, or ``#;``, which hides it."""

    __slots__ = ("name",)

    def __init__(self, name: str | None) -> None:
        self.name = name


class _Ready:
    """A token whose value is known already, among those that are only spelled."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


_DOT = _Ready(None)
_PREFIXES = {
    "'": _Prefix("quote"),
    "`": _Prefix("quasiquote"),
    ",": _Prefix("unquote"),
    ",@": _Prefix("unquote-splicing"),
    "#;": _Prefix(None),
}
_INFINITIES: dict[object, object] = {
    "+inf.0": float("inf"),
    "-inf.0": -float("inf"),
    "+nan.0": float("nan"),
    "-nan.0": float("nan"),
}
_ATOMS: dict[object, object] = {"#t": True, "#f": False, "#true": True, "#false": False, ".": _DOT, **_INFINITIES}
_ESCAPES = {
    '"': '"', "\\": "\\", "n": "\n", "t": "\t", "r": "\r", "a": "\a", "0": "\0", "f": "\f", "v": "\v", "b": "\b",
    "|": "|", "(": "(", ")": ")", "\n": "",
}  # fmt: skip
_HEXADECIMAL = {"x": 2, "u": 4, "U": 6}
# Guile takes brackets for parentheses, and ends a symbol at these.
_DELIMITERS = '()[]"; \t\r\n\f'
_BLANKS = " \t\r\n\f"
# To Guile these are parts of a symbol, but str.split splits there.
_BLANK_TO_PYTHON = "\x0b\x1c\x1d\x1e\x1f"
_BLANK_TO_UNICODE = "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


# Reading


def read(text: str, *, depth: int = DEPTH) -> object:
    """Return the one expression that ``text`` holds.

    Raises:
        SexpError: when it holds none, more than one, one cut short, or more than ``depth`` nested parentheses.
    """
    atoms = _ATOMS.copy()
    stack: list[list[object]] = []
    items: list[object] = []
    dots = 0
    prefixes = False
    is_odd = _has_odd_blank(text)
    position = 0
    end = len(text)
    tokens: list[str] | list[object]
    while position < end:
        quote = text.find('"', position)
        if quote < 0:
            quote = end
        segment = text[position:quote]
        if (
            is_odd
            or ";" in segment
            or "'" in segment
            or "{" in segment
            or "\\" in segment
            or "|" in segment
            or "[" in segment
            or "]" in segment
            or "`" in segment
            or "," in segment
        ):
            tokens, position = _careful_tokens(text, position, quote)
            prefixes = True
        else:
            tokens = segment.replace("(", " ( ").replace(")", " ) ").split()
            position = quote
        for word in tokens:
            if word == "(":
                stack.append(items)
                items = []
                if len(stack) > depth:
                    raise SexpError(f"more than {depth} nested parentheses")
            elif word == ")":
                if not stack:
                    raise SexpError("a closing parenthesis without an opening one")
                if prefixes:
                    items = _apply_prefixes(items)
                value: object = items
                if dots and len(items) >= 3 and items[-2] is _DOT:
                    dots -= 1
                    value = _dotted(items)
                items = stack.pop()
                items.append(value)
            else:
                value = atoms.get(word)
                if value is None:
                    value = atoms[word] = _atom(word)
                if value is _DOT:
                    dots += 1
                items.append(value)
        if position == quote < end:
            value, position = _string(text, quote)
            items.append(value)
    if stack:
        raise SexpError(f"cut short: {len(stack)} parentheses are open at the end")
    if prefixes:
        items = _apply_prefixes(items)
    if dots:
        raise SexpError("a dot where no pair can be")
    if len(items) != 1:
        raise SexpError("nothing to read" if not items else f"{len(items)} expressions where one was expected")
    return items[0]


def _has_odd_blank(text: str) -> bool:
    for character in _BLANK_TO_PYTHON if text.isascii() else _BLANK_TO_PYTHON + _BLANK_TO_UNICODE:
        if character in text:
            return True
    return False


def _careful_tokens(text: str, position: int, limit: int) -> tuple[list[object], int]:
    """Split what has comments, quotations or odd symbols in it.

    Goes from ``position`` to ``limit``, or past it when what looked like the beginning of a string there was not.
    """
    tokens: list[object] = []
    end = len(text)
    while position < limit:
        character = text[position]
        if character in _BLANKS:
            position += 1
        elif character in "()[]":
            tokens.append("(" if character in "([" else ")")
            position += 1
        elif character == '"':
            value, position = _string(text, position)
            tokens.append(_Ready(value))
        elif character == ";":
            position = text.find("\n", position)
            if position < 0:
                return tokens, end
        elif text.startswith(("#|", "#;", "#{", "#:#{", ",@"), position) or character in "'`,":
            if text.startswith("#|", position):
                position = _block_comment(text, position)
            elif text.startswith("#{", position):
                value, position = _odd_symbol(text, position + 2)
                tokens.append(_Ready(Symbol(value)))
            elif text.startswith("#:#{", position):
                value, position = _odd_symbol(text, position + 4)
                tokens.append(_Ready(Keyword(value)))
            else:
                length = 2 if text.startswith(("#;", ",@"), position) else 1
                tokens.append(_PREFIXES[text[position : position + length]])
                position += length
        else:
            start = position
            while position < end and text[position] not in _DELIMITERS:
                position += 1
            tokens.append(text[start:position])
    return tokens, position


def _block_comment(text: str, position: int) -> int:
    """Return where the comment that begins with ``#|`` ends; such comments nest."""
    level = 0
    while True:
        close = text.find("|#", position)
        if close < 0:
            raise SexpError("cut short within a comment")
        opening = text.find("#|", position, close)
        if opening >= 0:
            level += 1
            position = opening + 2
        else:
            level -= 1
            position = close + 2
            if level == 0:
                return position


def _odd_symbol(text: str, position: int) -> tuple[str, int]:
    """Return the name that ends with ``}#``, and the position after it."""
    close = text.find("}#", position)
    if close < 0:
        raise SexpError("cut short within a symbol")
    name = text[position:close]
    if "\\" not in name:
        return name, close + 2
    first, *rest = name.split("\\")
    parts = [first]
    for part in rest:
        code, semicolon, following = part.partition(";")
        if part[:1] == "x" and semicolon and _is_hexadecimal(code[1:]):
            parts += _character(code[1:]), following
        else:
            parts.append(part)
    return "".join(parts), close + 2


def _string(text: str, start: int) -> tuple[str, int]:
    """Return the string whose opening quote is at ``start``, and the position after its closing one."""
    position = start + 1
    quote = text.find('"', position)
    if quote >= 0:
        chunk = text[position:quote]
        if "\\" not in chunk:
            return chunk, quote + 1
    parts: list[str] = []
    while quote >= 0:
        backslash = text.find("\\", position, quote)
        if backslash < 0:
            parts.append(text[position:quote])
            return "".join(parts), quote + 1
        parts.append(text[position:backslash])
        letter = text[backslash + 1]
        position = backslash + 2
        if letter in _HEXADECIMAL:
            digits = text[position : position + _HEXADECIMAL[letter]]
            if len(digits) < _HEXADECIMAL[letter] or not _is_hexadecimal(digits):
                raise SexpError(f"\\{letter}{digits} in a string is no character")
            parts.append(_character(digits))
            position += len(digits)
        elif letter in _ESCAPES:
            parts.append(_ESCAPES[letter])
        else:
            raise SexpError(f"\\{letter} in a string means nothing")
        if quote < position:
            quote = text.find('"', position)
    raise SexpError("cut short within a string")


def _is_hexadecimal(digits: str) -> bool:
    return digits != "" and not digits.strip("0123456789abcdefABCDEF")


def _character(digits: str) -> str:
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise SexpError(f"there is no character number {digits}")
    return chr(code)


def _atom(token: object) -> object:
    """Return the value of a token that is neither a string nor a parenthesis."""
    if not isinstance(token, str):
        return token.value if isinstance(token, _Ready) and token is not _DOT else token
    if token[0] == "#":
        if token[1:2] == ":" and len(token) > 2:
            return Keyword(token[2:])
        raise SexpError(f"{token[:40]} is not supported")
    if token[0] in "0123456789+-.":
        number = _number(token)
        if number is not None:
            return number
    return Symbol(token)


def _number(token: str) -> object:
    """Return the number that ``token`` spells, or None."""
    unsigned = token[1:] if token[0] in "+-" else token
    # int() and float() alone would take 1_000, "infinity" and the digits of every script.
    if unsigned.strip("0123456789.eE+-/") or not unsigned[:1].strip("eE+-/"):
        return None
    try:
        if unsigned.isdigit():
            return int(token)
        numerator, slash, denominator = unsigned.partition("/")
        if slash:
            if not (numerator.isdigit() and denominator.isdigit() and denominator.strip("0")):
                return None
            from fractions import Fraction

            fraction = Fraction(token)
            return int(fraction) if fraction.denominator == 1 else fraction
    except ValueError as error:  # Python bounds the digits of an integer: converting them takes quadratic time
        raise SexpError(f"a number of {len(token)} digits") from error
    try:
        return float(token)
    except ValueError:
        return None


def _apply_prefixes(items: list[object]) -> list[object]:
    if not any(isinstance(item, _Prefix) for item in items):
        return items
    result: list[object] = []
    for item in reversed(items):
        if isinstance(item, _Prefix):
            if not result or result[-1] is _DOT:
                raise SexpError("a quotation of nothing")
            value = result.pop()
            if item.name is not None:
                result.append([Symbol(item.name), value])
        else:
            result.append(item)
    result.reverse()
    return result


def _dotted(items: list[object]) -> object:
    """Return what ``(a b . c)`` means; ``items`` has the dot in it."""
    tail = items[-1]
    if isinstance(tail, list):
        return items[:-2] + tail
    for head in reversed(items[:-2]):
        tail = Pair(head, tail)
    return tail


_NOT_PARENTHESES = bytes(byte for byte in range(256) if byte not in b"()")
_BLANK = b" \t\r\n\f"

# What a Reader is in the middle of.
_PLAIN = 0
_STRING = 1
_COMMENT = 2
_SYMBOL = 3
_BLOCK = 4
_CHARACTER = 5


class Reader:
    """Finds out where each expression of a stream of bytes ends, however it is cut; the work is linear in its length.

    Only lists are found, as the protocol has nothing else at the top.
    """

    __slots__ = (
        "_chunks",
        "_comment",
        "_depth",
        "_depth_limit",
        "_fault",
        "_length",
        "_previous",
        "_size_limit",
        "_state",
    )

    def __init__(self, *, size: int = SIZE, depth: int = DEPTH) -> None:
        """Accept expressions of at most ``size`` bytes and ``depth`` nested parentheses."""
        self._size_limit = size
        self._depth_limit = depth
        self._chunks: list[bytes] = []
        self._length = 0
        self._depth = 0
        self._state = _PLAIN
        self._previous = 0
        self._comment = 0
        self._fault: SexpError | None = None

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes and return the texts, for :func:`read`, of the expressions that they complete.

        Bytes that are no UTF-8 become U+FFFD.

        Raises:
            SexpError: when something else than a list begins, or a limit is passed. The reader is of no use then. What
                the same bytes completed before it is returned first: the error comes with the next bytes.
        """
        if self._fault is not None:
            raise self._fault
        texts: list[str] = []
        try:
            self._find(data, texts)
        except SexpError as error:
            if not texts:
                raise
            self._fault = error
        return texts

    def _find(self, data: bytes, texts: list[str]) -> None:
        position = start = 0
        end = len(data)
        is_tried = False
        while position < end:
            if self._depth == 0 and self._state == _PLAIN:
                byte = data[position]
                if byte in _BLANK:
                    blanks = data[position : position + 1024]
                    position += len(blanks) - len(blanks.lstrip(_BLANK))
                    continue
                if byte == 0x3B:
                    self._state = _COMMENT
                elif byte == 0x28:
                    start = position
                    self._depth = 1
                else:
                    raise SexpError(f"an expression that begins with {chr(byte)!r} instead of a parenthesis")
                position += 1
                continue
            if not is_tried and self._at_once(data, position):
                position = end
                if self._depth == 0:
                    texts.append(self._end(data[start:]))
            elif self._state == _PLAIN:
                position = self._plain(data, position)
                if self._depth == 0:
                    texts.append(self._end(data[start:position]))
            else:
                position = self._opaque(data, position)
            is_tried = True
        if self._depth:
            self._take(data[start:])

    def _at_once(self, data: bytes, position: int) -> bool:
        """Take all the rest of the data in a few strokes, when it is plain and no other expression begins in it.

        A status of all services is most of a megabyte: going from string to string would cost as much as reading it.
        """
        is_inside = self._state == _STRING
        if not (is_inside or self._state == _PLAIN) or self._previous == 0x5C:
            return False
        if b"\\" in data or b";" in data or b"{" in data or b"|" in data:
            return False
        parts = data[position:].split(b'"')
        parentheses = b"".join(parts[is_inside::2]).translate(None, _NOT_PARENTHESES)
        depth = self._depth
        seen = 0
        for byte in parentheses:
            seen += 1
            depth += 1 if byte == 0x28 else -1
            if not 0 < depth <= self._depth_limit:
                break
        ends_inside = is_inside ^ (len(parts) % 2 == 0)
        if depth > self._depth_limit:
            return False
        if depth == 0 and (ends_inside or seen < len(parentheses) or not data.endswith(b")")):
            return False
        self._depth = depth
        self._state = _STRING if ends_inside else _PLAIN
        self._previous = 0 if ends_inside else data[-1]
        return True

    def _end(self, chunk: bytes) -> str:
        self._take(chunk)
        text = b"".join(self._chunks).decode("utf-8", "replace")
        self._chunks.clear()
        self._length = 0
        return text

    def _take(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._length += len(chunk)
        if self._length > self._size_limit:
            raise SexpError(f"longer than {self._size_limit} bytes")

    def _plain(self, data: bytes, position: int) -> int:
        """Count parentheses up to the next string, comment, odd symbol or the end of the expression."""
        quote = data.find(b'"', position)
        limit = quote if quote >= 0 else len(data)
        segment = data[position:limit]
        if not (b";" in segment or b"{" in segment or b"|" in segment or b"\\" in segment):
            parentheses = segment.translate(None, _NOT_PARENTHESES)
            closing = parentheses.count(b")")
            if self._depth > closing and self._depth + len(parentheses) <= self._depth_limit:
                self._depth += len(parentheses) - 2 * closing
                return self._at_quote(data, limit)
            depth = self._depth
            for byte in parentheses:
                depth += 1 if byte == 0x28 else -1
                if depth == 0:
                    break
                if depth > self._depth_limit:
                    raise SexpError(f"more than {self._depth_limit} nested parentheses")
            if depth:
                self._depth = depth
                return self._at_quote(data, limit)
        return self._bytewise(data, position, limit)

    def _at_quote(self, data: bytes, position: int) -> int:
        if position == len(data):
            self._previous = data[-1]
            return position
        self._state = _STRING
        self._previous = 0
        return position + 1

    def _bytewise(self, data: bytes, position: int, limit: int) -> int:
        previous = self._previous if position == 0 else data[position - 1]
        for index in range(position, limit):
            byte = data[index]
            if byte == 0x28:
                self._depth += 1
                if self._depth > self._depth_limit:
                    raise SexpError(f"more than {self._depth_limit} nested parentheses")
            elif byte == 0x29:
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
            elif byte == 0x3B and previous != 0x23:
                self._state = _COMMENT
                return index + 1
            elif previous == 0x23 and byte in b"{|\\":
                self._state = {0x7B: _SYMBOL, 0x7C: _BLOCK, 0x5C: _CHARACTER}[byte]
                self._comment = 1
                self._previous = 0
                return index + 1
            previous = byte
        return self._at_quote(data, limit)

    def _opaque(self, data: bytes, position: int) -> int:
        """Skip what hides parentheses; return the position after it, or the end of ``data`` when it goes on."""
        end = len(data)
        state = self._state
        if state == _COMMENT:
            newline = data.find(b"\n", position)
            if newline < 0:
                return end
            position = newline + 1
        elif state == _CHARACTER:
            position += 1
        elif state == _STRING:
            if self._previous == 0x5C:  # the backslash was the last byte of what came before
                self._previous = 0
                position += 1
            while True:
                quote = data.find(b'"', position)
                limit = quote if quote >= 0 else end
                while (backslash := data.find(b"\\", position, limit)) >= 0:
                    position = backslash + 2
                if position > end:
                    self._previous = 0x5C
                    return end
                if position <= limit:
                    break
            if quote < 0:
                return end
            position = quote + 1
        else:
            position = self._paired(data, position)
            if position < 0:
                return end
        self._state = _PLAIN
        self._previous = 0
        return position

    def _paired(self, data: bytes, position: int) -> int:
        """Return the position after ``}#`` or the last ``|#``, or -1 when it has not come."""
        previous = self._previous
        for index in range(position, len(data)):
            byte = data[index]
            if byte == 0x23 and previous == (0x7D if self._state == _SYMBOL else 0x7C):
                self._comment -= 1
                if self._comment == 0:
                    return index + 1
                byte = 0
            elif byte == 0x7C and previous == 0x23 and self._state == _BLOCK:
                self._comment += 1
                byte = 0
            previous = byte
        self._previous = previous
        return -1


# Writing

_OPEN = Raw("(")
_CLOSE = Raw(")")
_SPACE = Raw(" ")
_SPACED_DOT = Raw(" . ")
_ODD_FLOATS = {"inf": "+inf.0", "-inf": "-inf.0", "nan": "+nan.0"}
_SPECIAL_IN_SYMBOL = frozenset("()[]{}\"';`,|\\")
_written_symbols: dict[str, str] = {}


def write(value: object) -> str:
    """Return ``value`` as Guile's ``write`` spells it.

    Tuples are written as lists. A lone surrogate (a byte that was no UTF-8) becomes U+FFFD, as no Guile string has one.

    Raises:
        SexpError: for a value of another type.
    """
    if not isinstance(value, (list, tuple, Pair)):
        return _write_atom(value)
    parts: list[str] = []
    stack: list[object] = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, (list, tuple)):
            parts.append("(")
            stack.append(_CLOSE)
            for item in reversed(value):
                stack.append(item)
                stack.append(_SPACE)
            if value:
                stack.pop()
        elif isinstance(value, Pair):
            heads: list[object] = []
            while isinstance(value, Pair):
                heads += (_SPACE, value.head) if heads else (value.head,)
                value = value.tail
            parts.append("(")
            stack.append(_CLOSE)
            if isinstance(value, list):
                for item in reversed(value):
                    stack += (item, _SPACE)
            else:
                stack += (value, _SPACED_DOT)
            stack.extend(reversed(heads))
        else:
            parts.append(_write_atom(value))
    return "".join(parts)


def _write_atom(value: object) -> str:
    if isinstance(value, str):
        if isinstance(value, Raw):
            return value
        if isinstance(value, Symbol):
            return write_symbol(value)
        if isinstance(value, Keyword):
            return f"#:{write_symbol(value)}"
        return write_string(value)
    if value is True:
        return "#t"
    if value is False:
        return "#f"
    if isinstance(value, int):
        try:
            return str(value)
        except ValueError as error:
            raise SexpError("a number of too many digits") from error
    if isinstance(value, float):
        return _write_float(value)
    if type(value).__name__ == "Fraction":
        return str(value)
    raise SexpError(f"a {type(value).__name__} cannot be written as an S-expression")


def write_string(value: str) -> str:
    """Return ``value`` as a string in double quotes."""
    if value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    parts = ['"']
    for character in value:
        if character in '"\\':
            parts.append("\\" + character)
        elif character.isprintable():
            parts.append(character)
        elif character in "\n\t\r\a":
            parts.append({"\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a"}[character])
        else:
            code = ord(character)
            if 0xD800 <= code < 0xE000:
                parts.append("\ufffd")
            elif code < 0x100:
                parts.append(f"\\x{code:02x}")
            elif code < 0x10000:
                parts.append(f"\\u{code:04x}")
            else:
                parts.append(f"\\U{code:06x}")
    parts.append('"')
    return "".join(parts)


def write_symbol(name: str) -> str:
    """Return the symbol of this name, ``#{like this}#`` when it would otherwise read as something else."""
    written = _written_symbols.get(name)
    if written is None:
        written = name if _is_plain(name) else _write_odd_symbol(name)
        if len(_written_symbols) >= 10_000:
            _written_symbols.clear()
        _written_symbols[str(name)] = written
    return written


def _is_plain(name: str) -> bool:
    return (
        name.isprintable()
        and " " not in name
        and name not in {"", ".", *_INFINITIES}
        and name[0] != "#"
        and not _SPECIAL_IN_SYMBOL.intersection(name)
        and (name[0] not in "0123456789+-." or not _is_number(name))
    )


def _is_number(name: str) -> bool:
    try:
        return _number(name) is not None
    except SexpError:
        return True


def _write_odd_symbol(name: str) -> str:
    parts = ["#{"]
    for character in name:
        if 0xD800 <= ord(character) < 0xE000:
            parts.append("\ufffd")
        elif character in "()[]{}\\" or not character.isprintable():
            parts.append(f"\\x{ord(character):x};")
        else:
            parts.append(character)
    parts.append("}#")
    return "".join(parts)


def _write_float(value: float) -> str:
    text = repr(value)
    if text in _ODD_FLOATS:
        return _ODD_FLOATS[text]
    mantissa, letter, exponent = text.partition("e")
    if not letter:
        return text
    if "." not in mantissa:
        mantissa += ".0"
    if 0 < int(exponent) < 21:
        # Python goes over to an exponent at 1e16, Guile at 1e21.
        return f"{int(value)}.0"
    return f"{mantissa}e{int(exponent)}"
