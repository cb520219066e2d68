"""Types in the words of people who write TOML: ``a list of strings``. Only mistakes need them."""

from typing import Any

import msgspec
from msgspec import inspect

from herdpy.mistake import KeyPath

PLAIN_WORDS: dict[type[inspect.Type], tuple[str, str]] = {
    inspect.BoolType: ("true or false", "booleans"),
    inspect.DateTimeType: ("a date and time", "dates and times"),
    inspect.DateType: ("a date", "dates"),
    inspect.TimeType: ("a time", "times"),
    inspect.AnyType: ("a value", "values"),
}
"""One of them, and several."""


def type_words(wanted: Any, *, bounded: bool = True) -> str:
    """What a value of this type is; its bounds are told too, unless they are not what is wrong."""
    info = inspect.type_info(wanted)
    return _words(info if bounded else _unbounded(info), several=False)


def _unbounded(wanted: inspect.Type) -> inspect.Type:
    match wanted:
        case inspect.Metadata(type=inner):
            return _unbounded(inner)
        case inspect.UnionType(types=members):
            return inspect.UnionType(types=tuple(_unbounded(member) for member in members))
        case inspect.IntType() | inspect.FloatType() | inspect.StrType():
            return type(wanted)()
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return inspect.ListType(item_type=item)
        case _:
            return wanted


def missing_words(key: str, wanted: Any) -> str:
    """That a key has to be given, and how."""
    return f"missing; write {key} = {_example(inspect.type_info(wanted))}, {type_words(wanted)}"


def way_to_write(path: KeyPath, wanted: Any, value: Any) -> str:
    """``; write ...`` when a string stands where a list of strings belongs, the commonest of such mistakes."""
    if not isinstance(value, str) or not _takes_list_of_strings(inspect.type_info(wanted)):
        return ""
    import shlex

    try:
        words = shlex.split(value) or [value]
    except ValueError:
        words = [value]
    key = f"{path[-1]} = " if isinstance(path[-1], str) else ""  # of what stands in a list, only itself
    return f"; write {key}[{', '.join(_quoted(word) for word in words)}]"


def _quoted(word: str) -> str:
    """A word as a TOML string (JSON's escapes are among TOML's)."""
    return msgspec.json.encode(word).decode()


def _takes_list_of_strings(wanted: inspect.Type) -> bool:
    match wanted:
        case inspect.Metadata(type=inner):
            return _takes_list_of_strings(inner)
        case inspect.UnionType(types=members):
            return any(_takes_list_of_strings(member) for member in members)
        case inspect.VarTupleType(item_type=inspect.StrType()) | inspect.ListType(item_type=inspect.StrType()):
            return True
    return False


def _words(wanted: inspect.Type, *, several: bool) -> str:
    if type(wanted) in PLAIN_WORDS:
        return PLAIN_WORDS[type(wanted)][several]
    match wanted:
        case inspect.Metadata(type=inner):
            return _words(inner, several=several)
        case inspect.UnionType(types=members):
            words = [_words(member, several=several) for member in members if not isinstance(member, inspect.NoneType)]
            return " or ".join(words)
        case inspect.IntType() | inspect.FloatType():
            noun = "whole number" if isinstance(wanted, inspect.IntType) else "number"
            return (f"{noun}s" if several else f"a {noun}") + _bounds(wanted)
        case inspect.StrType():
            noun = "string" if wanted.min_length != 1 else "non-empty string"
            return (f"{noun}s" if several else f"a {noun}") + _length(wanted, "characters")
        case inspect.LiteralType(values=(value,)) if not several:
            return _literal(value)
        case inspect.LiteralType(values=values):
            return ("among " if several else "one of ") + ", ".join(_literal(value) for value in values)
        case inspect.EnumType(cls=cls):
            return ("among " if several else "one of ") + ", ".join(_literal(member.value) for member in cls)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) | inspect.SetType(item_type=item):
            noun = "list" if wanted.min_length != 1 else "non-empty list"
            return (
                (f"{noun}s of " if several else f"a {noun} of ")
                + _words(item, several=True)
                + _length(wanted, "elements")
            )
        case inspect.FrozenSetType(item_type=item):
            return ("lists of " if several else "a list of ") + _words(item, several=True)
        case inspect.TupleType(item_types=items):
            return ("lists of " if several else "a list of ") + ", ".join(_words(item, several=False) for item in items)
        case inspect.DictType(value_type=value):
            return ("tables of " if several else "a table of ") + _words(value, several=True)
        case inspect.StructType(fields=fields):
            required = " and ".join(field.encode_name for field in fields if field.required)
            return ("tables" if several else "a table") + (f" with {required}" if required else "")
        case _:
            return ("values" if several else "a value") + f" of type {type(wanted).__name__}"


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _bounds(wanted: inspect.IntType | inspect.FloatType) -> str:
    if wanted.ge is not None and wanted.le is not None:
        return f" from {wanted.ge} to {wanted.le}"
    bounds = (
        (wanted.ge, "of at least"),
        (wanted.gt, "greater than"),
        (wanted.le, "of at most"),
        (wanted.lt, "less than"),
        (wanted.multiple_of, "divisible by"),
    )
    said = [
        f"{words} {bound:g}" if isinstance(bound, float) else f"{words} {bound}"
        for bound, words in bounds
        if bound is not None
    ]
    return f" {' and '.join(said)}" if said else ""


def _length(wanted: Any, noun: str) -> str:
    shortest, longest = wanted.min_length, wanted.max_length
    pattern = getattr(wanted, "pattern", None)
    if pattern is not None:
        return f" that matches {pattern}"
    if shortest is not None and shortest > 1 and longest is not None:
        return f" of {shortest} to {longest} {noun}"
    if shortest is not None and shortest > 1:
        return f" of at least {shortest} {noun}"
    if longest is not None:
        return f" of at most {longest} {noun}"
    return ""


def _example(wanted: inspect.Type) -> str:
    """How a value of this type looks in TOML."""
    match wanted:
        case inspect.Metadata(type=inner):
            return _example(inner)
        case inspect.UnionType(types=members):
            return _example(members[0])
        case inspect.BoolType():
            return "true"
        case inspect.IntType():
            return str(1 if wanted.ge is None else wanted.ge)
        case inspect.FloatType():
            return "1.0"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"[{_example(item)}]"
        case inspect.DictType() | inspect.StructType():
            return "{ ... }"
        case inspect.LiteralType(values=values):
            return _literal(values[0])
        case _:
            return '"..."'
