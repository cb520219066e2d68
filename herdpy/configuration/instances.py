"""One declaration that stands for several: ``instances = [1, 2]`` makes NAME@1 and NAME@2, and NAME for all of them."""

import re
from collections.abc import Iterator
from typing import Any

from herdpy.catalogue.common import name_problem
from herdpy.mistake import value_words

KEY = "instances"
MARK = re.compile("%([%i])")


def instances(name: str, table: dict[str, Any]) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
    """The declarations that one stands for: itself, unless it has the key ``instances``.

    In every string of it, ``%i`` then becomes the instance, and ``%%`` a percent sign; a string that is just ``"%d"``
    becomes the number that the instance is. NAME is the target of all instances; it starts with
    herdpy if they do, and provides the names without ``%i``.

    Returns:
        (name, table) of each, the group last; and what is wrong with the key, if anything.
    """
    if KEY not in table:
        return [(name, table)], None
    table = dict(table)
    wanted = table.pop(KEY)
    if problem := _problem(name, wanted):
        return [], problem
    shared = [word for word in _strings(table.get("provision")) if "%i" not in word]
    made = []
    for instance in wanted:
        its = {key: _filled(value, instance) for key, value in table.items()}
        if "provision" in table and isinstance(table["provision"], list):
            its["provision"] = [word for word in its["provision"] if word not in shared]
        made.append((f"{name}@{instance}", its))
    group = {
        "type": "target",
        "members": [member for member, _ in made],
        "documentation": f"All instances of {name}.",
        **({"auto-start": table["auto-start"]} if "auto-start" in table else {}),
        **({"provision": shared} if shared else {}),
    }
    return [*made, (name, group)], None


def _problem(name: str, wanted: object) -> str | None:
    if not isinstance(wanted, list) or not wanted:
        return f"expected a list of names or numbers, such as [1, 2], got {value_words(wanted)}"
    for instance in wanted:
        if isinstance(instance, bool) or not isinstance(instance, int | str):
            return f"expected names or numbers, got {value_words(instance)}"
        if problem := name_problem(f"{name}@{instance}"):
            return f"{instance!r}: {problem}"
    if len({str(instance) for instance in wanted}) < len(wanted):
        return "an instance is there twice"
    return None


def _filled(value: Any, instance: int | str) -> Any:
    match value:
        case "%d":
            return instance
        case str():
            return MARK.sub(lambda mark: str(instance) if mark[1] == "i" else "%", value)
        case list():
            return [_filled(item, instance) for item in value]
        case dict():
            return {key: _filled(item, instance) for key, item in value.items()}
        case _:
            return value


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, str))
