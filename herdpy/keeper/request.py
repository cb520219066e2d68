"""The supervisor's requests, taken apart: every field is checked here, so that none can surprise the keeper."""

from __future__ import annotations

import os

from herdpy.keeper.spawn import Child
from herdpy.kernel import CAPABILITIES, LIMITS, UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Request = Mapping[str, Any]


LAST_ID = 2**32 - 2
"""Of users and groups; the number after it means "as it is" to setresuid(2)."""


LAST_LIMIT = 2**53
"""Of what a resource limit can be, but for none at all: JSON's numbers are exact so far."""


MOST_DESCRIPTORS = 128
"""That a spawn may ask for: fewer than the open files that any child may have (getrlimit(2), RLIMIT_NOFILE)."""


LONGEST_NAME = 255
"""Of a name in LISTEN_FDNAMES (sd_listen_fds(3), sd_is_socket(3): fdname_is_valid)."""


class BadRequest(Exception):  # noqa: N818
    """A request that cannot be understood or granted; ``str()`` says why."""


def text(request: Request, key: str) -> str:
    """Return a string that the kernel can be told."""
    return _text(request.get(key), f"{request['kind']}: {key}")


def number(request: Request, key: str, most: int = 2**53, least: int = 0) -> int:
    """Return a number from ``least`` to ``most``."""
    found = request.get(key)
    if type(found) is not int or not least <= found <= most:  # a bool is an int, too
        raise BadRequest(f"{request['kind']}: {key} must be a number from {least} to {most}")
    return found


def scope(request: Request, *more: str) -> str:
    """Return what a signal or a release reaches: ``group``, ``process`` or one of ``more``."""
    found = request.get("scope")
    known = ("group", "process", *more)
    for one in known:
        if one == found:
            return one  # and not the packet's own: a process keeps it
    raise BadRequest(f"{request['kind']}: scope must be {' or '.join(map(repr, known))}")


def child(request: Request) -> Child:
    """Return the child that a spawn asks for."""
    command = request.get("command")
    if not isinstance(command, list) or not command:
        raise BadRequest("spawn: command must be a list of strings, the program first")
    if not all(_text(word, "spawn: command") or at for at, word in enumerate(command)):
        raise BadRequest("spawn: command must begin with a program")
    environment = request.get("environment")
    if not isinstance(environment, dict):
        raise BadRequest("spawn: environment must be an object of strings")
    if not _is_plain(environment):
        for name, value in environment.items():
            _text(value, f"spawn: environment: {name}")
            if not _text(name, "spawn: environment") or "=" in name:
                raise BadRequest(f"spawn: environment: {name!r} is no variable's name")
    groups = request.get("groups")
    if groups is not None and not (
        isinstance(groups, list) and all(type(gid) is int and 0 <= gid <= LAST_ID for gid in groups)
    ):
        raise BadRequest("spawn: groups must be a list of numbers or null")
    no_new_privileges = request.get("no_new_privileges", False)
    if type(no_new_privileges) is not bool:
        raise BadRequest("spawn: no_new_privileges must be true or false")
    pid_variable = None if request.get("pid_variable") is None else text(request, "pid_variable")
    if pid_variable is not None and (not pid_variable or "=" in pid_variable):
        raise BadRequest(f"spawn: pid_variable: {pid_variable!r} is no variable's name")
    return Child(
        command,
        environment,
        directory=None if request.get("directory") is None else text(request, "directory"),
        uid=_optional_number(request, "uid", LAST_ID),
        gid=_optional_number(request, "gid", LAST_ID),
        groups=groups,
        umask=_optional_number(request, "umask", 0o777),
        limits=_limits(request.get("limits")),
        nice=_optional_number(request, "nice", 19, -20),
        oom_score_adjust=_optional_number(request, "oom_score_adjust", 1000, -1000),
        capabilities=_capabilities(request.get("capabilities")),
        no_new_privileges=no_new_privileges,
        pid_variable=pid_variable,
    )


def output(request: Request) -> str | tuple[str, ...]:
    """Return where a child's output goes: ``supervisor``, ``null``, or a tuple of the log file's path."""
    found = request.get("output")
    if found in ("supervisor", "null"):
        return str(found)
    if isinstance(found, dict) and isinstance(found.get("log"), str) and found["log"].startswith("/"):
        return (_text(found["log"], "spawn: output: log"),)
    raise BadRequest('spawn: output must be {"log": ABSOLUTE PATH}, "supervisor" or "null"')


def descriptors(request: Request) -> list[tuple[str, str]]:
    """Return what a spawn asks for from descriptor 3 on: (name that we hold it by, name in LISTEN_FDNAMES) of each."""
    found = request.get("descriptors")
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > MOST_DESCRIPTORS:
        raise BadRequest(f"spawn: descriptors must be a list of at most {MOST_DESCRIPTORS} pairs of names")
    pairs = []
    for one in found:
        if not isinstance(one, list) or len(one) != 2:
            raise BadRequest("spawn: descriptors must be a list of [held name, name for the child]")
        held, name = (_text(word, "spawn: descriptors") for word in one)
        if len(name) > LONGEST_NAME or ":" in name or not name.isascii() or not (name.isprintable() or name == ""):
            raise BadRequest(f"spawn: descriptors: {name!r} cannot be a name in LISTEN_FDNAMES")
        pairs.append((held, name))
    return pairs


def takes_stdin(request: Request) -> bool:
    """Tell whether a spawn's stdin and stdout are to be the descriptor beside it."""
    found = request.get("stdin", False)
    if type(found) is not bool:
        raise BadRequest("spawn: stdin must be true or false")
    return found


def _limits(found: object) -> list[tuple[str, int, int]]:
    if found is None:
        return []
    if not isinstance(found, list):
        raise BadRequest("spawn: limits must be a list of [name, soft, hard]")
    limits = {}
    for one in found:
        if not isinstance(one, list) or len(one) != 3:
            raise BadRequest("spawn: limits must be a list of [name, soft, hard]")
        name = one[0]
        if not isinstance(name, str) or name not in LIMITS:
            raise BadRequest(f"spawn: limits: {name!r} is no limit's name")
        if name in limits:
            raise BadRequest(f"spawn: limits: {name} is there twice")
        soft, hard = (_limit(value, name) for value in one[1:])
        if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
            raise BadRequest(f"spawn: limits: {name}: the soft limit must not be above the hard one")
        limits[name] = (name, soft, hard)
    return list(limits.values())


def _limit(found: object, name: str) -> int:
    if found is None or (type(found) is int and found == -1):
        return UNLIMITED
    if type(found) is not int or not 0 <= found <= LAST_LIMIT:
        raise BadRequest(f"spawn: limits: {name} must be a number from 0 to {LAST_LIMIT}, or null")
    return found


def _capabilities(found: object) -> list[int] | None:
    if found is None:
        return None
    if not isinstance(found, list):
        raise BadRequest("spawn: capabilities must be a list of strings or null")
    for name in found:
        if name not in CAPABILITIES:
            raise BadRequest(f"spawn: capabilities: {name!r} is no capability's name")
    return sorted({CAPABILITIES.index(name) for name in found})


def _optional_number(request: Request, key: str, most: int, least: int = 0) -> int | None:
    return None if request.get(key) is None else number(request, key, most, least)


def _is_plain(environment: Mapping[str, Any]) -> bool:
    """Tell quickly of most environments that they can be told to the kernel as they are."""
    try:
        names, values = "".join(environment), "".join(environment.values())
    except TypeError:
        return False
    return "" not in environment and "=" not in names and _is_told(names) and _is_told(values)


def _is_told(words: str) -> bool:
    return words.isascii() and "\0" not in words


def _text(found: object, what: str) -> str:
    if not isinstance(found, str):
        raise BadRequest(f"{what} must be a string")
    if _is_told(found):
        return found
    if "\0" in found:
        raise BadRequest(f"{what} must not hold a NUL")
    try:
        os.fsencode(found)
    except UnicodeEncodeError:
        raise BadRequest(f"{what} cannot be encoded") from None
    return found
