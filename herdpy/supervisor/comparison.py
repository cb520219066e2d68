"""Two plans compared, service by service and field by field: what a reload does. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from herdpy.service import Effect, Service

AT_ONCE = frozenset(
    {
        *("requirement", "wants", "after", "essential", "documentation", "source", "declaration", "auto_start"),
        *("cautions", "foresights", "renewal", "respawn", "ports", "reach", "actions", "on_change", "members"),
        *("transient", "stop", "provision"),
    }
)
"""Fields of a service that take effect while its process runs: nothing of it was spawned with them."""
PRIVATE = ("environment", "credentials")
"""Keys of declarations whose values are nobody's business: only the names in them are told."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A service that is declared otherwise than it runs."""

    before: Service
    after: Service
    effect: Effect
    keys: tuple[tuple[str, Any, Any], ...]
    """What was declared otherwise: the key's path, its value before, its value after; None for what is not there."""

    @property
    def name(self) -> str:
        return self.after.name


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What would have to be done to come from what there is to another plan; all by name."""

    added: tuple[Service, ...]
    removed: tuple[str, ...]
    changed: tuple[Change, ...]
    unchanged: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed)


def compare(before: Mapping[str, Service], after: Iterable[Service]) -> Comparison:
    """Compare what there is, by canonical names, with what is to be."""
    wanted = {service.name: service for service in after}
    common = [name for name in sorted(wanted) if name in before]
    changes = {name: change(before[name], wanted[name]) for name in common if before[name] != wanted[name]}
    return Comparison(
        added=tuple(wanted[name] for name in sorted(wanted) if name not in before),
        removed=tuple(sorted(before.keys() - wanted.keys())),
        changed=tuple(changes.values()),
        unchanged=tuple(name for name in common if name not in changes),
    )


def change(before: Service, after: Service) -> Change:
    """How a service takes the way in which it is declared now."""
    keys = tuple(_declared_otherwise(before.declaration, after.declaration))
    return Change(before=before, after=after, effect=_effect(before, after), keys=keys)


def _effect(before: Service, after: Service) -> Effect:
    if not isinstance(after.on_change, str):
        return after.on_change.effect(before, after)
    differing = {field for field in Service.__struct_fields__ if getattr(before, field) != getattr(after, field)} - {
        "facts"
    }
    if differing <= AT_ONCE and before.stop.scope == after.stop.scope:  # with that, the keeper holds its process
        return Effect(kind="now", words="takes effect now")
    if after.on_change == "restart":
        return Effect(kind="restart", words="is restarted now")
    if before.lazy and after.lazy and "sockets" in differing:
        return Effect(kind="next-start", words="takes effect now if it has no process, else after the end of that")
    return Effect(kind="next-start", words="takes effect at its next start")


def _declared_otherwise(before: str, after: str) -> Iterator[tuple[str, Any, Any]]:
    old, new = (msgspec.json.decode(text or "{}") for text in (before, after))
    for key in ("type", "source"):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)
    yield from _differences(old.get("configuration") or {}, new.get("configuration") or {}, "")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys((*old, *new)):
        path = f"{above}.{key}" if above else key
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, path)
        elif path.partition(".")[0] in PRIVATE:
            yield path, "..." if before is not None else None, "..." if after is not None else None
        else:
            yield path, before, after
