"""JSON Schema of declarations, for editors and checkers of TOML: ``herdpy schema TYPE``.

It says what the types say: keys, what each takes, defaults, and the text below each field in the source. What a type's
``check()`` finds besides, ``herdpy check`` tells.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec

from herdpy.catalogue.common import ServiceType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OF_EVERY_FILE: dict[str, Any] = {
    "mask": {"type": "boolean", "description": "Whether what earlier layers declare by this name is not declared."},
    "instances": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": ["string", "integer"]},
        "description": "The file stands for a service NAME@INSTANCE of each; %i is the instance in any string.",
    },
}
"""Keys that are no type's own."""


def schema(service_type: ServiceType) -> dict[str, Any]:
    """The schema of the declarations of one type.

    A file may override a few keys of another layer's: keys that must be given are demanded only of one that says its
    type.
    """
    struct = service_type.configuration
    _, components = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    structs = {one.__name__: one for one in _structs(struct)}
    described = {
        name: _described(_without_null(component), structs.get(name)) for name, component in components.items()
    }
    own = described.pop(struct.__name__)
    required = own.pop("required", [])
    kind = {"const": service_type.name, "description": "The service type."}
    return {
        "$schema": DIALECT,
        "title": service_type.name,
        "description": service_type.documentation,
        "type": "object",
        "properties": {"type": kind, **OF_EVERY_FILE, **own["properties"]},
        "additionalProperties": False,
        **({"if": {"required": ["type"]}, "then": {"required": required}} if required else {}),
        **({"$defs": described} if described else {}),
    }


def documentation(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The text below each field in the source of a struct and of those that it inherits, on one line of Markdown."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            assert isinstance(body, ast.ClassDef)
            for field, text in zip(body.body, body.body[1:], strict=False):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(words))),
                    ):
                        # There is no None in TOML.
                        found[name] = " ".join(words.split()).replace("``", "`").replace("None means", "left out means")
    return found


def _structs(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs that a type is made of, itself among them."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
        for field in msgspec.structs.fields(annotation):
            yield from _structs(field.type)
    for argument in get_args(annotation):
        yield from _structs(argument)


def _described(component: dict[str, Any], struct: type[msgspec.Struct] | None) -> dict[str, Any]:
    """A struct's schema with the texts of its fields, and without those of its class, which are for programmers."""
    for key in ("title", "description"):
        component.pop(key, None)
    if struct is None:
        return component
    texts = documentation(struct)
    properties = component["properties"]
    for field in msgspec.structs.fields(struct):
        if text := texts.get(field.name):
            properties[field.encode_name] = {**properties[field.encode_name], "description": text}
    return component


def _without_null(value: Any) -> Any:
    """A schema without null: there is none in TOML."""
    match value:
        case {"anyOf": list(choices), **others} if {"type": "null"} in choices:
            left = [choice for choice in choices if choice != {"type": "null"}]
            return _without_null({**others, **(left[0] if len(left) == 1 else {"anyOf": left})})
        case {"enum": list(choices), **others} if None in choices:
            return _without_null({**others, "enum": [choice for choice in choices if choice is not None]})
        case {"default": None, **others}:
            return _without_null(others)
        case Mapping():
            return {key: _without_null(item) for key, item in value.items()}
        case list():
            return [_without_null(item) for item in value]
        case _:
            return value
