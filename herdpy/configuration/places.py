"""Where the keys of a declaration are written, be it in one file or in several layers."""

import tomllib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from herdpy.configuration.conversion import key_path, key_text
from herdpy.configuration.layers import Source
from herdpy.mistake import KeyPath, Place

NOWHERE = object()


class _Layer(NamedTuple):
    file: str
    table: dict[str, Any]
    lines: dict[KeyPath, int]
    """Where each key is written."""


class Places:
    """The places of one declaration's keys. They are looked for when first asked: only mistakes need them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """``sources`` are the layers of the declaration, first to last; there is at least one."""
        self._texts = tuple((source.file, source.text) for source in sources)

    @cached_property
    def _layers(self) -> tuple["_Layer", ...]:
        from herdpy.configuration.toml_lines import key_lines

        return tuple(_Layer(file, tomllib.loads(text), key_lines(text)) for file, text in self._texts)

    def place(self, key: str) -> Place:
        """The place of a key, in the layer that set its value, or of the nearest table around it that is written."""
        return self.place_of_path(key_path(key), key)

    def place_of_path(self, path: KeyPath, key: str | None = None) -> Place:
        """As :meth:`place`, for a path."""
        layer = self._layers[-1]
        line = 1
        candidates = self._layers
        for length in range(1, len(path) + 1):
            candidates = tuple(one for one in candidates if path[:length] in one.lines)
            if not candidates:
                break
            layer = candidates[-1]
            line = layer.lines[path[:length]]
            if not isinstance(_value(layer.table, path[:length]), dict):
                # A list replaces that of earlier layers, with all that is in it.
                candidates = (layer,)
        return Place(file=layer.file, line=line, key=key_text(path) if key is None else key)

    def place_of_value(self, value: object, key: str = "") -> Place:
        """The first place at or below ``key`` that has this value, last layer first; else the place of ``key``."""
        around = key_path(key)
        for layer in reversed(self._layers):
            for path, line in layer.lines.items():
                if path[: len(around)] == around and _value(layer.table, path) == value:
                    return Place(file=layer.file, line=line, key=key_text(path))
        return self.place_of_path(around, key)


def _value(table: dict[str, Any], path: KeyPath) -> object:
    value: Any = table
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return NOWHERE
    return value
