"""Write docs/reference/TYPE.md of every service type, from the type itself.

    python tools/reference.py [DIRECTORY]

A page holds nothing that the type's struct does not say: its fields, what each takes (in the words that mistakes in
declarations are told in), its default, and the text below it in the source.
"""

import datetime
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

import msgspec

from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Common, ServiceType
from herdpy.configuration.schema import documentation
from herdpy.configuration.type_words import type_words

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "reference")


def pages() -> Iterator[tuple[str, str]]:
    """(file name, text) of each type's page."""
    for service_type in TYPES.values():
        yield f"{service_type.name}.md", "\n".join(_page(service_type)) + "\n"


def write(directory: str) -> None:
    """Write the pages into a directory.

    Raises:
        OSError: one cannot be written.
    """
    for name, text in pages():
        path = os.path.join(directory, name)
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{path}.new", path)


def _page(service_type: ServiceType) -> Iterator[str]:
    struct = service_type.configuration
    common = {field.name for field in msgspec.structs.fields(Common)}
    fields = msgspec.structs.fields(struct)
    yield f"# {service_type.name}"
    yield ""
    yield "<!-- Made from the type by tools/reference.py: change the type, then run that. -->"
    yield ""
    yield service_type.documentation
    yield ""
    own = [field for field in fields if field.name not in common]
    yield from _table(struct, own, service_type.file, service_type.file_keys)
    for key, table in _tables_within(fields):
        yield ""
        yield f"## In `{key}`"
        yield ""
        yield from _table(table, msgspec.structs.fields(table))
    yield ""
    yield "## As in every type"
    yield ""
    yield "Besides `type` and `mask`, which [the declarations](herdpy.md#declarations) are about:"
    yield ""
    yield from _table(struct, (field for field in fields if field.name in common))


def _table(
    struct: type[msgspec.Struct],
    fields: Iterable[msgspec.structs.FieldInfo],
    file: str = "",
    file_keys: Mapping[str, str] | None = None,
) -> Iterator[str]:
    documented = documentation(struct)
    cells: tuple[str, ...]
    yield f"| key | takes | default | |{f' in {file} |' if file else ''}"
    yield f"| --- | --- | --- | --- |{' --- |' if file else ''}"
    for field in fields:
        cells = (f"`{field.encode_name}`", type_words(field.type), _default(field), documented.get(field.name, ""))
        if file:
            cells = (*cells, f"`{file_keys[field.name]}`" if file_keys and field.name in file_keys else "")
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _tables_within(fields: Iterable[msgspec.structs.FieldInfo]) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """(key, struct) of each field that takes a table, or a list of them."""
    for field in fields:
        for struct in _structs(field.type):
            yield field.encode_name, struct


def _structs(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for argument in get_args(annotation):
        yield from _structs(argument)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{_toml(field.default_factory())}`"
    if field.default is msgspec.NODEFAULT:
        return "must be given"
    return "" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return msgspec.json.encode(value).decode()
        case datetime.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case tuple() | list():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case dict():
            return _inline(value.items())
        case msgspec.Struct():
            fields = msgspec.structs.fields(value)
            return _inline((field.encode_name, getattr(value, field.name)) for field in fields)
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


def _inline(pairs: Iterable[tuple[str, object]]) -> str:
    said = ", ".join(f"{key} = {_toml(value)}" for key, value in pairs)
    return f"{{ {said} }}" if said else "{}"


if __name__ == "__main__":
    write(sys.argv[1] if len(sys.argv) > 1 else DIRECTORY)
