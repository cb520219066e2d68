"""herdpy's own file, ``herdpy.toml``: who may use the control socket, how long a shutdown may take, and so on."""

import grp
from collections.abc import Iterator
from typing import Annotated

import msgspec

from herdpy.configuration.conversion import convert, find_mistakes, key_path
from herdpy.configuration.layers import Source, read_file
from herdpy.configuration.places import Places
from herdpy.mistake import Mistake


class Control(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The table ``[control]``: groups, by name or number, whose members may use the control socket."""

    read_groups: tuple[str, ...] = ()
    """They may see how everything is."""
    operate_groups: tuple[str, ...] = ()
    """They may also start, stop, enable, disable, and ask for the actions that services have of their own."""


class OwnFile(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The whole file."""

    control: Control = Control()
    shutdown_timeout: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 90.0
    """Seconds from the beginning of a shutdown until what still runs is killed."""
    automatic_reload: bool = True
    """Whether declarations take effect when they are written; else when a reload is asked for."""

    def check(self) -> Iterator[tuple[str, str]]:
        """What the types of the fields cannot say: (key path, problem) of each mistake."""
        for key, names in (("read-groups", self.control.read_groups), ("operate-groups", self.control.operate_groups)):
            for index, name in enumerate(names):
                if _gid(name) is None:
                    yield f"control.{key}[{index}]", f"there is no group {name!r}"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the file comes to."""

    read_gids: frozenset[int] = frozenset()
    operate_gids: frozenset[int] = frozenset()
    shutdown_timeout: float = 90.0
    """Seconds."""
    automatic_reload: bool = True


def read_settings(file: str, *, is_root: bool) -> tuple[Settings, tuple[Mistake, ...]]:
    """Read herdpy's own file; one that is not there says nothing, one with mistakes counts as if it said nothing.

    Args:
        is_root: whether we are root: then a file that others could have written is a mistake.
    """
    found = read_file("herdpy", file, only_roots=is_root)
    if found is None:
        return Settings(), ()
    if not isinstance(found, Source):
        return Settings(), (found.mistake,)
    try:
        own = convert(found.table, OwnFile)
    except msgspec.ValidationError:
        problems = find_mistakes(found.table, OwnFile)
    else:
        problems = [(key_path(key), problem) for key, problem in own.check()]
        if not problems:
            return _settings(own), ()
    places = Places([found])
    return Settings(), tuple(sorted(places.place_of_path(path).mistake(problem) for path, problem in problems))


def _settings(own: OwnFile) -> Settings:
    def gids(names: tuple[str, ...]) -> frozenset[int]:
        return frozenset(gid for gid in map(_gid, names) if gid is not None)

    return Settings(
        read_gids=gids(own.control.read_groups),
        operate_gids=gids(own.control.operate_groups),
        shutdown_timeout=own.shutdown_timeout,
        automatic_reload=own.automatic_reload,
    )


def _gid(name: str) -> int | None:
    try:
        return int(name) if name.isdecimal() and name.isascii() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
