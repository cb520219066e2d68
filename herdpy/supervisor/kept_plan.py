"""The plan as it was last found to be right, on disk: what a supervisor goes on with when the files have mistakes by
then."""

import os
from collections.abc import Callable

import msgspec
import trio

from herdpy import files
from herdpy.service import Service
from herdpy.supervisor.log import log
from herdpy.supervisor.plan import Plan, make_plan

NAME = "plan.json"
VERSION = 1


class _Kept(msgspec.Struct, frozen=True):
    version: int
    declarations: tuple[str, ...]
    """As services carry them along (``Service.declaration``)."""


async def keep(directory: str, plan: Plan) -> None:
    """Write down a plan that has no mistake, into the state directory. That it cannot be written is only logged."""
    declarations = tuple(dict.fromkeys(service.declaration for service in plan.services))
    content = msgspec.json.encode(_Kept(VERSION, declarations))
    try:
        await trio.to_thread.run_sync(files.replace, os.path.join(directory, NAME), content, 0o600)
    except OSError as error:
        log("plan-not-kept", directory=directory, reason=error.strerror)


def kept(directory: str, remake: Callable[[str], tuple[Service, ...]]) -> Plan | None:
    """The plan that was last kept there; None when there is none that this herdpy understands.

    Args:
        remake: makes services from a declaration; raises ValueError when it cannot.
    """
    try:
        with open(os.path.join(directory, NAME), "rb") as file:
            found = msgspec.json.decode(file.read(), type=_Kept)
        if found.version != VERSION:
            return None
        services = [service for declaration in found.declarations for service in remake(declaration)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        log("kept-plan-not-understood", reason=error)
        return None
    plan, _ = make_plan(services)
    return plan
