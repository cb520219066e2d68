"""The plan that the declarations on disk make on this host: for ``herdpy check``, for boot and for reload."""

import msgspec

from herdpy.catalogue import TYPES
from herdpy.catalogue.facts import Directories, gather
from herdpy.configuration import Mistake, declared_services
from herdpy.paths import Paths
from herdpy.supervisor.plan import Plan, make_plan, sound_plan


class DeclaredPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is declared, right or wrong."""

    plan: Plan | None
    """None when there is any mistake."""
    mistakes: tuple[Mistake, ...]
    """By file and line."""
    sound: Plan
    """The plan of what is right at least; the plan itself when all is."""


def declared_plan(paths: Paths) -> DeclaredPlan:
    """Read the configuration, look at the host, make the plan."""
    directories = Directories(
        state=paths.state,
        log=paths.log,
        configuration=paths.configuration,
        runtime=paths.runtime,
        socket=paths.socket,
        secrets=paths.secrets,
    )
    declared = declared_services(paths.layers, TYPES, gather(directories), trusted=paths.trusted)
    plan, mistakes = make_plan(declared.services, mistaken=declared.mistaken, locate=declared.locate)
    if declared.mistakes:
        plan = None
    return DeclaredPlan(
        plan=plan,
        mistakes=tuple(sorted(declared.mistakes + mistakes)),
        sound=sound_plan(declared.services) if plan is None else plan,
    )
