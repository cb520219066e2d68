"""Where the keys of a declaration are written, be it in one file or in several layers."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from herdpy.configuration.conversion import key_path, key_text
from herdpy.configuration.layers import Source
from herdpy.mistake import KeyPath, Place

NOWHERE = object()


class Places:
    """The places of one declaration's keys. The lines are looked for when first asked: only mistakes need them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """``sources`` are the layers of the declaration, first to last; there is at least one."""
        self._sources = tuple(sources)

    @cached_property
    def _lines(self) -> dict[str, dict[KeyPath, int]]:
        """By file."""
        from herdpy.configuration.toml_lines import key_lines

        return {source.file: key_lines(source.text) for source in self._sources}

    def place(self, key: str) -> Place:
        """The place of a key, in the layer that set its value, or of the nearest table around it that is written."""
        return self.place_of_path(key_path(key), key)

    def place_of_path(self, path: KeyPath, key: str | None = None) -> Place:
        """As :meth:`place`, for a path."""
        source = self._sources[-1]
        line = 1
        candidates = self._sources
        for length in range(1, len(path) + 1):
            candidates = tuple(one for one in candidates if path[:length] in self._lines[one.file])
            if not candidates:
                break
            source = candidates[-1]
            line = self._lines[source.file][path[:length]]
            if not isinstance(_value(source.table, path[:length]), dict):
                # A list replaces that of earlier layers, with all that is in it.
                candidates = (source,)
        return Place(file=source.file, line=line, key=key_text(path) if key is None else key)

    def place_of_value(self, value: object, key: str = "") -> Place:
        """The first place at or below ``key`` that has this value, last layer first; else the place of ``key``."""
        around = key_path(key)
        for source in reversed(self._sources):
            for path, line in self._lines[source.file].items():
                if path[: len(around)] == around and _value(source.table, path) == value:
                    return Place(file=source.file, line=line, key=key_text(path))
        return self.place_of_path(around, key)


def _value(table: dict[str, Any], path: KeyPath) -> object:
    value: Any = table
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return NOWHERE
    return value
