"""The declarations of all layers, typed and validated, or every mistake in them."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from herdpy.catalogue.common import Common, Declaration, ServiceType
from herdpy.configuration.conversion import convert, find_mistakes, key_path, widen_dates
from herdpy.configuration.instances import KEY as INSTANCES
from herdpy.configuration.instances import instances
from herdpy.configuration.layers import Source, Unread, merge, read_file, read_layer
from herdpy.configuration.places import Places
from herdpy.mistake import KeyPath, Mistake, did_you_mean, value_words


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What was declared."""

    declarations: tuple[Declaration, ...]
    """Those without a mistake, by name."""
    mistakes: tuple[Mistake, ...]
    """All of them, by file and line. While there is one, nothing of the configuration is to be acted upon."""
    mistaken: frozenset[str]
    """Names of services that would be declared but for the mistakes: it is no mistake to require one of these."""


def load(
    layers: Iterable[str],
    types: Mapping[str, ServiceType],
    *,
    is_root: bool,
    trusted: Collection[str] = (),
) -> Configuration:
    """Read every ``*.toml`` of the layers, merge those of one name, and convert each into its type's struct.

    Args:
        layers: directories, the shipped one first; a later one's keys override. A directory need not exist.
            A single file, by a name that ends in ``.toml``, may stand for one.
        types: the service types by name.
        is_root: whether we are root: then a file that others could have written is a mistake.
        trusted: layers that are as trustworthy as the program itself, whoever owns them: the shipped one.

    Raises:
        OSError: never; a file that cannot be read is a mistake.
    """
    sources: dict[str, list[Source]] = {}
    mistakes: list[Mistake] = []
    mistaken: set[str] = set()
    for directory in layers:
        for found in _read(directory, only_roots=is_root and directory not in trusted):
            if isinstance(found, Source):
                sources.setdefault(found.name, []).append(found)
            else:
                mistakes.append(found.mistake)
                if found.name:
                    mistaken.add(found.name)
    declarations = []
    # A layer that cannot be read could mend whatever looks wrong in the others.
    for name in sorted(sources.keys() - mistaken):
        table: dict[str, Any] = {}
        for source in sources[name]:
            table = merge(table, source.table)
        if table.get("mask") is True:
            continue
        its_declarations, problem = instances(name, table)
        if problem is not None:
            mistakes.append(Places(sources[name]).place(INSTANCES).mistake(problem))
            mistaken.add(name)
        for member, its_table in its_declarations:
            result = _declare(member, sources[name], its_table, types, others=sources)
            if isinstance(result, Declaration):
                declarations.append(result)
            else:
                mistakes.extend(mistake for mistake in result if mistake not in mistakes)
                mistaken.add(member)
                mistaken.update(_strings(its_table.get("provision")))
    return Configuration(
        declarations=tuple(declarations), mistakes=tuple(sorted(mistakes)), mistaken=frozenset(mistaken)
    )


def _read(layer: str, *, only_roots: bool) -> Iterable[Source | Unread]:
    if not layer.endswith(".toml"):
        return read_layer(layer, only_roots=only_roots)
    found = read_file(os.path.basename(layer).removesuffix(".toml"), layer, only_roots=only_roots)
    return () if found is None else (found,)


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _declare(
    name: str,
    sources: Sequence[Source],
    table: dict[str, Any],
    types: Mapping[str, ServiceType],
    others: Collection[str],
) -> Declaration | list[Mistake]:
    places = Places(sources)

    def mistake(path: KeyPath, problem: str) -> Mistake:
        return places.place_of_path(path).mistake(problem)

    mistakes = []
    mask = table.pop("mask", False)
    if not isinstance(mask, bool):
        mistakes.append(mistake(("mask",), f"expected true or false, got {value_words(mask)}"))
    type_name = table.pop("type", "process" if "command" in table else None)
    if problem := _type_problem(type_name, types):
        if type_name is None:
            misspelt = [(key, did_you_mean(key, ["type", "command", "mask"])) for key in table]
            mistakes += [mistake((key,), f"unknown key{guess}") for key, guess in misspelt if guess]
        near_name = did_you_mean(name, [other for other in others if other != name])
        if type_name is None and near_name and not mistakes:
            problem += f"{near_name.removesuffix('?')}.toml?"
        return [*mistakes, mistake(("type",), problem)]
    assert isinstance(type_name, str)
    struct = types[type_name].configuration
    table = widen_dates(table, struct)
    configuration: Common | None = None
    try:
        configuration = convert(table, struct)
    except msgspec.ValidationError:
        problems = find_mistakes(table, struct)
    else:
        problems = [(key_path(key), problem) for key, problem in configuration.check()]
    mistakes.extend(mistake(path, problem) for path, problem in problems)
    if configuration is None or mistakes:
        return mistakes
    return Declaration(
        name=name, source=sources[-1].file, type=type_name, configuration=configuration, locations=places
    )


def _type_problem(type_name: object, types: Mapping[str, ServiceType]) -> str | None:
    if type_name is None:
        return f'missing, and no earlier layer has it; write type = "..." ({", ".join(types)}) or command = ["..."]'
    if not isinstance(type_name, str):
        return f"expected the name of a service type ({', '.join(types)}), got {value_words(type_name)}"
    if type_name not in types:
        known = did_you_mean(type_name, types) or f"; the types are {', '.join(types)}"
        return f"unknown service type {value_words(type_name).removeprefix('the string ')}{known}"
    return None
