"""What services lack on this host, and how to get it: ``herd doctor``."""

import os
import shutil
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec
import trio

from herdpy.service import Attempt, Foresight, Service
from herdpy.threads import in_thread

PATIENCE = 10.0
"""Seconds for a service: a file system that hangs does not keep what is known of the others."""
PACKAGES = {
    "ip": "iproute2",
    "mount": "mount",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh-keygen": "openssh-client",
}
"""Debian's packages of programs that shipped declarations name and that are not called alike."""


class Examined(msgspec.Struct, frozen=True):
    """What is known of a service."""

    name: str
    lacks: tuple[str, ...]
    """What is missing, each in a sentence with the way to get it."""


async def examine(services: Iterable[Service]) -> list[Examined]:
    """Look at each service, in a thread."""
    examined = []
    for service in services:
        found: list[str] = [f"could not be looked into within {PATIENCE:g} s: a file system does not answer"]
        with trio.move_on_after(PATIENCE):
            found = await in_thread(partial(_lacks, service), abandon_on_cancel=True)
        examined.append(Examined(service.name, tuple(found)))
    return examined


def _lacks(service: Service) -> list[str]:
    steps = [*service.prepare, *(step for attempt in service.attempts for step in attempt.prepare)]
    looks = [*service.foresights, *(step for step in steps if isinstance(step, Foresight))]
    found = [lack for look in looks if (lack := look.lack()) is not None]
    # What a step says of a program, it says better.
    found += [lack for program, lack in _missing_programs(service.attempts) if not any(program in one for one in found)]
    return list(dict.fromkeys(found))


def _missing_programs(attempts: Iterable[Attempt]) -> Iterator[tuple[str, str]]:
    """(program, what is wrong with it) of each way to start."""
    for attempt in attempts:
        program = attempt.process.command[0]
        path = attempt.process.environment.get("PATH") or os.environ.get("PATH")
        if "/" in program and not os.path.isabs(program):
            continue  # from a directory that may not be there yet
        if shutil.which(program, path=path) is not None:
            continue
        if os.path.isabs(program):
            problem = "is not executable" if os.path.exists(program) else "does not exist"
            yield program, f"its program {program} {problem}; change its declaration"
        else:
            package = PACKAGES.get(program)
            advice = f"apt-get install {package}" if package else "install it, or name its path in the declaration"
            yield program, f"not installed: there is no {program} in the PATH; {advice}"


def in_words(examined: Iterable[Examined]) -> str:
    """As a person reads it: what something is missing for, then the rest."""
    lines, sound = [], []
    for one in examined:
        if one.lacks:
            lines += [f"{one.name}:", *(f"  {lack}" for lack in one.lacks)]
        else:
            sound.append(one.name)
    if sound:
        lines.append(f"Nothing is missing for {', '.join(sound)}.")
    return "\n".join(lines) or "There are no services."


def as_json(examined: list[Examined]) -> str:
    """The same for a program."""
    return msgspec.json.format(msgspec.json.encode({one.name: one.lacks for one in examined})).decode()
