"""From a TOML table to a service type's struct, or to every mistake in it.

msgspec converts fast and stops at the first mistake. Only when it has met one does :func:`find_mistakes` walk the table
beside the struct, field by field, to tell all of them in words.
"""

import datetime
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin

import msgspec

from herdpy.catalogue.common import Common
from herdpy.mistake import KeyPath, did_you_mean, value_words


class Checked(Protocol):
    """A struct that says what the types of its fields cannot: (key path, problem) of each mistake."""

    def check(self) -> Iterator[tuple[str, str]]: ...


_Checked = TypeVar("_Checked", bound=Checked)

Problem = tuple[KeyPath, str]
"""What is wrong, and at which key."""

TOML_TYPES = (datetime.datetime, datetime.date, datetime.time)
"""Values that tomllib makes and msgspec takes as they are."""


def convert(table: Mapping[str, Any], struct: type[_Checked]) -> _Checked:
    """The struct that the table describes.

    Raises:
        msgspec.ValidationError: at the first mistake.
    """
    configuration: _Checked = _convert(table, struct)
    return configuration


def widen_dates(table: dict[str, Any], struct: type[Common]) -> dict[str, Any]:
    """The table with each date midnight of that day where the struct has a date and time (msgspec takes no union)."""
    dates = {key: value for key, value in table.items() if type(value) is datetime.date}
    if not dates:
        return table
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    midnights = {
        key: datetime.datetime.combine(value, datetime.time())
        for key, value in dates.items()
        if datetime.datetime in _choices(fields.get(key))
    }
    return table | midnights


def find_mistakes(table: Mapping[str, Any], struct: type[_Checked]) -> list[Problem]:
    """Every mistake in a table that :func:`convert` refused: (path, problem), in the order of the table.

    What ``check()`` says of the rest is among them, as far as it does not concern a key that is mistaken itself.
    """
    assert issubclass(struct, msgspec.Struct)
    mistakes = list(_table_mistakes(table, struct, ()))
    mistaken = {path[:1] for path, _ in mistakes}
    rest = {key: value for key, value in table.items() if (key,) not in mistaken}
    try:
        configuration = convert(rest, struct)
    except msgspec.ValidationError as error:
        if not mistakes:
            mistakes.append(((), str(error)))
    else:
        for key, problem in configuration.check():
            path = key_path(key)
            if path[:1] not in mistaken:
                mistakes.append((path, problem))
    return mistakes


def key_path(key: str) -> KeyPath:
    """The path that a key such as ``port-forwardings[0].host`` or ``environment."a.b"`` means."""
    import re

    parts = re.findall(r'"((?:[^"\\]|\\.)*)"|\[(\d+)\]|([^."\[\]]+)', key)
    return tuple(int(index) if index else quoted or bare for quoted, index, bare in parts)


def key_text(path: KeyPath) -> str:
    """A path as people write it: ``port-forwardings[0].host``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            is_bare = part.replace("-", "").replace("_", "").isalnum() and part.isascii()
            text += ("." if text else "") + (part if is_bare else f'"{part}"')
    return text


def _convert(value: Any, wanted: Any) -> Any:
    return msgspec.convert(value, wanted, builtin_types=TOML_TYPES)


def _table_mistakes(table: Mapping[str, Any], struct: type[msgspec.Struct], path: KeyPath) -> Iterator[Problem]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key in fields:
            yield from _value_mistakes(value, fields[key].type, (*path, key))
        else:
            fitting = [name for name, field in fields.items() if _fits(value, field.type)]
            unset = [name for name in fitting if name not in table]
            yield (*path, key), "unknown key" + did_you_mean(key, unset, fitting, fields)
    from herdpy.configuration.type_words import missing_words

    for name, field in fields.items():
        if field.required and name not in table:
            yield (*path, name), missing_words(name, field.type)


def _value_mistakes(value: Any, wanted: Any, path: KeyPath) -> Iterator[Problem]:
    """The mistakes of one value: those of its parts, or else what is wrong with the whole."""
    try:
        _convert(value, wanted)
        return
    except msgspec.ValidationError as error:
        message = str(error)
    found = False
    for mistake in _part_mistakes(value, wanted, path):
        found = True
        yield mistake
    if found:
        return
    from herdpy.configuration.type_words import type_words, way_to_write

    if message.startswith(("Expected ", "Invalid enum value ")):
        expected = type_words(wanted, bounded=", got `" not in message)
        yield path, f"expected {expected}, got {value_words(value)}{way_to_write(path, wanted, value)}"
    else:
        yield path, message.removesuffix(" - at `$`")


def _part_mistakes(value: Any, wanted: Any, path: KeyPath) -> Iterator[Problem]:
    """The mistakes inside a table or a list, when that is what is wanted at all."""
    for choice in _choices(wanted):
        origin = get_origin(choice)
        if isinstance(value, dict) and isinstance(choice, type) and issubclass(choice, msgspec.Struct):
            yield from _table_mistakes(value, choice, path)
            return
        if isinstance(value, dict) and origin is dict:
            item = get_args(choice)[1]
            for key, part in value.items():
                yield from _value_mistakes(part, item, (*path, key))
            return
        if isinstance(value, list) and origin in {list, tuple, frozenset, set}:
            items = get_args(choice)
            if origin is tuple and items[-1] is not ...:
                return
            for index, part in enumerate(value):
                yield from _value_mistakes(part, items[0], (*path, index))
            return


def _choices(wanted: Any) -> tuple[Any, ...]:
    """The members of a union, without None; of anything else, itself alone."""
    while get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    if get_origin(wanted) in {Union, UnionType}:
        return tuple(choice for member in get_args(wanted) for choice in _choices(member))
    return () if wanted is NoneType else (wanted,)


def _fits(value: Any, wanted: Any) -> bool:
    try:
        _convert(value, wanted)
    except msgspec.ValidationError:
        return False
    return True
