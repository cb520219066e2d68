"""The plan as it was last found to be right and carried out, on disk.

A supervisor goes on with it when the files have mistakes by then. Else it compares it with what is declared, to finish
a reload that its predecessor did not live to see through.
"""

import os
import zlib
from collections.abc import Callable, Mapping

import msgspec

from herdpy import files
from herdpy.keeper.message import is_near
from herdpy.service import Service
from herdpy.supervisor.line import KeeperLine
from herdpy.supervisor.log import log
from herdpy.supervisor.plan import Plan, make_plan
from herdpy.threads import in_thread

NAME = "plan.json"
VERSION = 1
NOTE = "plan"
"""The key of the note that holds the file's checksum: else it is of another run of herdpy, or was not written."""


class _Kept(msgspec.Struct, frozen=True):
    version: int
    declarations: tuple[str, ...]
    """As services carry them along (``Service.declaration``)."""


class Unfinished(msgspec.Struct, frozen=True):
    """What is declared otherwise than in the plan that the last supervisor had carried out."""

    plan: Plan
    """What is declared, and what is there still although it is not."""
    added: frozenset[str]
    """The canonical names of what was not in that one."""


async def keep(line: KeeperLine, directory: str, plan: Plan) -> bool:
    """Write down a plan that has no mistake, into the state directory; returns whether that could be done. That it
    cannot be written is only logged."""
    content = msgspec.json.encode(_Kept(VERSION, _declarations(plan)))
    try:
        await in_thread(files.replace, os.path.join(directory, NAME), content, 0o600)
    except OSError as error:
        log("plan-not-kept", directory=directory, reason=error.strerror)
        return False
    await line.note(NOTE, str(zlib.crc32(content)))
    return True


def kept(directory: str, remake: Callable[[str], tuple[Service, ...]]) -> Plan | None:
    """The plan that was last kept there; None when there is none that this herdpy understands.

    Args:
        remake: makes services from a declaration; raises ValueError when it cannot.
    """
    try:
        services = [service for declaration in _read(directory)[0] for service in remake(declaration)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        log("kept-plan-not-understood", reason=error)
        return None
    plan, _ = make_plan(services)
    return plan


def unfinished(
    directory: str, plan: Plan, notes: Mapping[str, str], remake: Callable[[str], tuple[Service, ...]]
) -> Unfinished | None:
    """What the last supervisor of this herdpy has left to do for what is declared; None when there is nothing.

    Args:
        plan: what is declared.
        notes: the last supervisor's.
        remake: as of :func:`kept`.
    """
    try:
        declarations, checksum = _read(directory)
        if notes.get(NOTE) != str(checksum) or declarations == _declarations(plan):
            return None
        known = {service.declaration for service in plan.services}
        before = {
            service.name: service
            for declaration in declarations
            if declaration not in known
            for service in remake(declaration)
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log("kept-plan-not-understood", reason=error)
        return None
    there = set(declarations)
    added = {
        service.name for service in plan.services if service.declaration not in there and service.name not in before
    }
    removed = [before[name] for name in before.keys() - {service.name for service in plan.services}]
    both, _ = make_plan([*plan.services, *removed])
    return Unfinished(both or plan, frozenset(added))


def _declarations(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(service.declaration for service in plan.services))


def _read(directory: str) -> tuple[tuple[str, ...], int]:
    """The declarations, and the file's checksum.

    Raises:
        OSError: it cannot be read.
        ValueError: this herdpy does not understand it.
    """
    with open(os.path.join(directory, NAME), "rb") as file:
        content = file.read()
    found = msgspec.json.decode(content, type=_Kept)
    if not is_near(found.version, VERSION):
        raise ValueError(f"its version is {found.version}")
    return found.declarations, zlib.crc32(content)
