"""The declarations of all layers, typed and validated, or every mistake in them."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from herdpy.catalogue.common import Common, Declaration, ServiceType
from herdpy.configuration.conversion import convert, find_mistakes, key_path, widen_dates
from herdpy.configuration.instances import KEY as INSTANCES
from herdpy.configuration.instances import instances
from herdpy.configuration.layers import Source, Unread, list_file, list_layer, merge, read_listed
from herdpy.configuration.places import Places
from herdpy.mistake import KeyPath, Mistake, did_you_mean, own_mistake, value_words


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What was declared."""

    declarations: tuple[Declaration, ...]
    """Those without a mistake, by name."""
    mistakes: tuple[Mistake, ...]
    """All of them, by file and line. While there is one, nothing of the configuration is to be acted upon."""
    mistaken: frozenset[str]
    """Names of services that would be declared but for the mistakes: it is no mistake to require one of these."""


class Mistakes:
    """What is found wrong while declarations are read.

    Attributes:
        found: each once.
        names: as :attr:`Configuration.mistaken`.
    """

    def __init__(self) -> None:
        self.found: list[Mistake] = []
        self.names: set[str] = set()

    def add(self, mistakes: Iterable[Mistake], *names: str) -> None:
        """Note some that keep services of these names from being declared."""
        self.found += (mistake for mistake in mistakes if mistake not in self.found)
        self.names.update(names)


def load(
    layers: Iterable[str],
    types: Mapping[str, ServiceType],
    *,
    is_root: bool,
    trusted: Collection[str] = (),
) -> Configuration:
    """All that :func:`declarations` makes.

    Args:
        layers, types, is_root, trusted: likewise.
    """
    mistakes = Mistakes()
    found = tuple(declarations(layers, types, mistakes, is_root=is_root, trusted=trusted))
    return Configuration(declarations=found, mistakes=tuple(sorted(mistakes.found)), mistaken=frozenset(mistakes.names))


def declarations(
    layers: Iterable[str],
    types: Mapping[str, ServiceType],
    mistakes: Mistakes,
    *,
    is_root: bool,
    trusted: Collection[str] = (),
) -> Iterator[Declaration]:
    """Read every ``*.toml`` of the layers, merge those of one name, and convert each into its type's struct.

    One after the other: of a thousand, what was read of all of them would take some megabytes at once.

    Args:
        layers: directories, the shipped one first; a later one's keys override. A directory need not exist.
            A single file, by a name that ends in ``.toml``, may stand for one.
        types: the service types by name.
        mistakes: are added to.
        is_root: whether we are root: then a file that others could have written is a mistake.
        trusted: layers that are as trustworthy as the program itself, whoever owns them: the shipped one.

    Raises:
        OSError: never; a file that cannot be read is a mistake.
    """
    listed: list[tuple[dict[str, str], bool]] = []
    for layer in layers:
        only_roots = is_root and layer not in trusted
        files = _list(layer, only_roots=only_roots)
        if isinstance(files, Unread):
            mistakes.add([files.mistake], *filter(None, [files.name]))
        else:
            listed.append((files, only_roots))
    names = {name for files, _ in listed for name in files}
    # A layer that cannot be read could mend whatever looks wrong in the others.
    for name in sorted(names - mistakes.names):
        found = [read_listed(name, files[name], only_roots=only) for files, only in listed if name in files]
        unread = [one.mistake for one in found if isinstance(one, Unread)]
        if unread:
            mistakes.add(unread, name)
        else:
            sources = [one for one in found if isinstance(one, Source)]
            yield from _declared(name, sources, types, mistakes, others=names)


def _list(layer: str, *, only_roots: bool) -> dict[str, str] | Unread:
    if layer.endswith(".toml"):
        return list_file(os.path.basename(layer).removesuffix(".toml"), layer, only_roots=only_roots)
    return list_layer(layer, only_roots=only_roots)


def _declared(
    name: str,
    sources: Sequence[Source],
    types: Mapping[str, ServiceType],
    mistakes: Mistakes,
    others: Collection[str],
) -> Iterator[Declaration]:
    """What the files of one name declare."""
    table: dict[str, Any] = {}
    for source in sources:
        table = merge(table, source.table)
    if table.get("mask") is True:
        return
    its_declarations, problem = instances(name, table)
    if problem is not None:
        mistakes.add([Places(sources).place(INSTANCES).mistake(problem)], name)
    for member, its_table in its_declarations:
        result = _declare(member, sources, its_table, types, others)
        if isinstance(result, Declaration):
            yield result
        else:
            mistakes.add(result, member, *_strings(its_table.get("provision")))


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
        try:
            problems = [(key_path(key), problem) for key, problem in configuration.check()]
        except Exception as error:
            problems = [((), own_mistake(error))]
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
