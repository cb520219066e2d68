"""The configuration files of libvirt's daemons: what virConfParse reads (util/virconf.c of libvirt).

    key = "a string"        in double quotes, or in single ones; nothing is escaped, and no line ends within
    other_key = 1           numbers, and 0 or 1 for what is true or false
    third_key = [ "a", "b" ]

Keys are lower case letters and underscores. An unknown key is ignored without a word: whoever renders a file has to
know them.
"""

from collections.abc import Mapping, Sequence

Value = str | int | bool | tuple[str, ...]

HEADER = "# Written by herdpy at each start: change the declaration of the service, not this file.\n"


def render(values: Mapping[str, Value]) -> str:
    """A file that sets these keys, in their order.

    Raises:
        ValueError: a string that the format cannot hold; :func:`string_problem` tells beforehand.
    """
    return HEADER + "".join(f"{key} = {_rendered(value)}\n" for key, value in values.items())


def string_problem(text: str) -> str | None:
    """Why no configuration file can hold a string, in words; None when it can."""
    if "\0" in text or "\n" in text or "\r" in text:
        return "a string of libvirt's configuration files cannot hold a line's end or a NUL character"
    if '"' in text and "'" in text:
        return "a string of libvirt's configuration files cannot hold both kinds of quotes"
    return None


def _rendered(value: Value) -> str:
    match value:
        case bool():
            return "1" if value else "0"
        case int():
            return str(value)
        case str():
            return _quoted(value)
        case _:
            return _list(value)


def _list(items: Sequence[str]) -> str:
    return f"[ {', '.join(map(_quoted, items))} ]" if items else "[]"


def _quoted(text: str) -> str:
    if problem := string_problem(text):
        raise ValueError(f"{text!r}: {problem}")
    return f"'{text}'" if '"' in text else f'"{text}"'
