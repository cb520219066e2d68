"""What the client prints: on stdout the answer, on stderr what went wrong."""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")
"""What stands for itself in a POSIX shell's word."""


class Failure(Exception):  # noqa: N818 - it names what happened to the command
    """The command cannot be carried out; ``str()`` is the line for stderr, without ``herd: error:``.

    Attributes:
        status: the exit code.
        error: the reply's, where it was one that says so; else None.
    """

    def __init__(self, text: str, status: int = 1, error: object = None) -> None:
        super().__init__(text)
        self.status = status
        self.error = error


class Palette:
    """The escape sequences for one output, or none of them."""

    __slots__ = ("bold", "error", "plain", "warning")

    def __init__(self, is_colored: bool) -> None:
        self.bold, self.warning, self.error, self.plain = (
            ("\x1b[1m", "\x1b[1;35m", "\x1b[1;31m", "\x1b[0m") if is_colored else ("", "", "", "")
        )


def palette(descriptor: int) -> Palette:
    """Return the colours for a descriptor: those of GNU's client on a terminal, none elsewhere or with NO_COLOR."""
    return Palette(
        is_terminal(descriptor)
        and b"NO_COLOR" not in posix.environ
        and b"INSIDE_EMACS" not in posix.environ
        and posix.environ.get(b"TERM") != b"dumb"
    )


def is_terminal(descriptor: int) -> bool:
    """Whether the descriptor is open and a terminal."""
    return posix.isatty(descriptor)


def say(text: str) -> None:
    """Write ``text`` to stdout.

    Raises:
        Failure: when it cannot be written (a full disk).
        BrokenPipeError: when nobody reads it any more.
    """
    _write(1, text.encode(sys.stdout.encoding if sys.stdout else "utf-8", "replace"))


def say_bytes(piece: bytes) -> None:
    """Write bytes to stdout as they are.

    Raises:
        Failure, BrokenPipeError: as :func:`say`.
    """
    _write(1, piece)


def clean(text: str, descriptor: int = 1) -> str:
    """Return ``text``, which somebody else wrote, fit for this descriptor.

    A terminal obeys control characters, and what a guest or a service printed may hold any: there they become U+FFFD,
    but for the tab and the end of a line. Into a file or a pipe everything goes as it is.
    """
    if text.isprintable() or not is_terminal(descriptor):
        return text
    return "".join([c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text])


def quote(words: "Sequence[str]") -> str:
    """Return a line that a POSIX shell takes apart into these words again (sh(1), "Single Quotes")."""
    return " ".join(
        [word if word and SAFE.issuperset(word) else "'" + word.replace("'", "'\\''") + "'" for word in words]
    )


def is_unicode() -> bool:
    """Whether the user's locale (locale(7)) is one of UTF-8, and lines may be drawn.

    Asked of the environment, as sys.stdout says UTF-8 of the locale C, too; there Python itself has set LC_CTYPE
    (PEP 538).
    """
    names = (b"LC_ALL", b"LC_CTYPE", b"LANG")
    everything, kind, language = [posix.environ.get(name, b"") for name in names]
    if kind == b"C.UTF-8" and language in {b"", b"C", b"POSIX"}:
        kind = b""
    return (everything or kind or language).lower().replace(b"-", b"").endswith(b"utf8")


def report(text: str) -> None:
    """Write a line to stderr that says what is wrong, as GNU's client does it."""
    colors = palette(2)
    warn(f"{colors.error}error{colors.plain}: {clean(text, 2)}")


def warn(text: str) -> None:
    """Write a line to stderr with the command's name before it."""
    aside(f"herd: {text}\n")


def aside(text: str) -> None:
    """Write ``text`` to stderr; when that is impossible, there is nobody to tell."""
    try:
        _write(2, text.encode(sys.stderr.encoding if sys.stderr else "utf-8", "replace"))
    except (Failure, BrokenPipeError):
        return


def _write(descriptor: int, text: bytes) -> None:
    data = memoryview(text)
    try:
        while data:
            data = data[posix.write(descriptor, data) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"cannot write to descriptor {descriptor}: {error.strerror}") from None
