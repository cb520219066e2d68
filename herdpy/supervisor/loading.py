"""Services by hand while herdpy runs: ``load FILE``, ``unload SERVICE`` and ``reload FILE`` of herdpy itself.

A service has one source: a name that a file of the plan declares is changed there. What is loaded is noted at the
keeper with its declaration, and what is unloaded by its name, so that the next supervisor has the same services as
this one.
"""

import errno
import os
from collections.abc import Callable, Iterable

from herdpy.configuration import Declared
from herdpy.supervisor.log import log
from herdpy.supervisor.registry import NotRegistered, Registry
from herdpy.threads import in_thread

SUFFIX = ".toml"


class Refused(Exception):  # noqa: N818 - it names what happened to the command
    """Nothing was loaded, or unloaded; ``str()`` is one sentence that says why, ``lines`` say more."""

    def __init__(self, text: str, lines: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.lines = tuple(lines)


async def load(
    registry: Registry, read: Callable[[str], Declared], file: str, *, again: bool = False
) -> tuple[bool, tuple[str, ...]]:
    """Add the services that a file declares, or let them replace those that came from it before.

    Those new ones that start with herdpy are started. One that runs is replaced when it stops next.

    Args:
        read: what a file declares; it may wait for a disk, and is called in a thread.
        again: whether what came from this file, and that it no longer declares, is removed.

    Returns:
        Whether what was to be started was, and what there is to tell of it.

    Raises:
        FileNotFoundError: there is no such file.
        Refused: it has mistakes, or does not go together with what there is; nothing has changed then.
    """
    if ".." not in file.split("/"):  # which may lead elsewhere than back
        file = os.path.normpath(file)  # so that it is the same file in whatever spelling
    if not await in_thread(os.path.lexists, file, abandon_on_cancel=True):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
    if await in_thread(os.path.isdir, file, abandon_on_cancel=True):
        raise Refused(f"{file} is a directory; name one file of it at a time")
    if not file.endswith(SUFFIX):
        raise Refused(f"{file} is no file of declarations: its name does not end in {SUFFIX}")
    found = await in_thread(read, file, abandon_on_cancel=True)
    if found.mistakes:
        raise Refused(f"{file} has mistakes, and nothing was changed", map(str, found.mistakes))
    lives = registry.lives
    for service in found.services:
        if service.name in lives and service.name not in registry.registered:
            declared = lives[service.name].replacement or lives[service.name].service
            raise Refused(f"{service.name} is declared in {declared.source}; change it there, or unload it first")
    changed = [
        service
        for service in found.services
        if service.name not in lives or service != (lives[service.name].replacement or lives[service.name].service)
    ]
    new = [service.name for service in changed if service.name not in lives]
    lines = [
        f"Recording replacement for {service.name}."
        for service in changed
        if service.name in lives and not lives[service.name].is_idle
    ]
    moved = [
        lives[service.name]
        for service in changed
        if service.name in lives and lives[service.name].service.sockets != service.sockets
    ]
    try:
        await registry.register(changed)
    except NotRegistered as problem:
        raise Refused(f"{file} cannot be loaded, and nothing was changed", problem.problems) from None
    log("services-loaded", source=file, services=" ".join(service.name for service in changed))
    names = {service.name for service in found.services}
    gone = [
        name
        for name, life in lives.items()
        if again and os.path.normpath(life.service.source) == file and name not in names
    ]
    lines += await _remove(registry, [name for name in gone if lives[name].is_idle])
    lines += [
        f"{name} is declared no longer; it goes on until: herd unload root {name}" for name in gone if name in lives
    ]
    taken = [await life.take_sockets() for life in moved]
    failed = [line for outcome in taken if not outcome.done for line in outcome.lines]
    failed += await registry.start_all(lives[name] for name in new if lives[name].service.auto_start)
    return not failed, (*lines, *failed)


async def unload(registry: Registry, name: str) -> tuple[str, ...]:
    """Stop a service, and forget it; or all services, by the name ``all``.

    What a file of the plan declares stays away until the declarations are reloaded by hand.

    Returns:
        What there is to tell of it.

    Raises:
        KeyError: there is no such service.
        Refused: it does not stop, or others require it.
    """
    if name == "all":
        names = list(registry.lives)
        await registry.stop_each(names)
        return tuple(await _remove(registry, names))
    life = registry.by_name[name]
    if requirers := registry.requirers(life):
        raise Refused(f"{', '.join(requirers)} requires {life.name}; unload that first")
    outcome = await life.stop()
    if not outcome.done:
        raise Refused(f"{life.name} cannot be unloaded: it does not stop", outcome.lines)
    return tuple(await _remove(registry, [life.name]))


async def _remove(registry: Registry, names: list[str]) -> list[str]:
    """Forget services that are stopped; those that require others of them first."""
    lines: list[str] = []
    while names:
        problems: list[str] = []
        left = []
        for name in names:
            life = registry.lives.get(name)
            if life is None:
                continue  # a transient one: it is gone with its stop
            try:
                await registry.unload(life)
            except NotRegistered as problem:
                left.append(name)
                problems += problem.problems
            else:
                lines.append(f"Removing service '{name}'...")
        if left == names:
            raise Refused(f"cannot remove {', '.join(left)}: {'; '.join(problems)}", lines)
        names = left
    return [*lines, "Done."] if lines else []
