"""The plan that the declarations on disk make on this host: for ``herdpy check``, for boot and for reload."""

import os
from collections.abc import Collection, Iterator
from typing import Protocol

import msgspec

from herdpy.catalogue import TYPES
from herdpy.catalogue.facts import Directories, HostFacts, gather
from herdpy.configuration import Declared, Mistake, declared_services, remade_services
from herdpy.configuration.settings import Settings, read_settings
from herdpy.paths import Paths
from herdpy.service import Service
from herdpy.supervisor.plan import Plan, make_plan, sound_plan


class Remake(Protocol):
    """Makes the services of a declaration that one of them carried along."""

    def __call__(self, kept: str, *, explained: bool = False) -> tuple[Service, ...]:
        """Make them; ``explained`` with what ``herd configuration`` tells.

        Raises:
            ValueError: this herdpy cannot.
        """
        ...


class DeclaredPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is declared, right or wrong."""

    plan: Plan | None
    """None when there is any mistake."""
    mistakes: tuple[Mistake, ...]
    """By file and line."""
    cautions: tuple[Mistake, ...]
    """What is right, but does not do what one may think; by file and line."""
    sound: Plan
    """The plan of what is right at least; the plan itself when all is."""
    settings: Settings
    """What herdpy's own file says; the defaults when it is mistaken."""


def declared_plan(paths: Paths) -> DeclaredPlan:
    """Read the configuration, look at the host, make the plan."""
    declared = declared_services(paths.layers, TYPES, _facts(paths), trusted=paths.trusted)
    plan, mistakes = make_plan(declared.services, mistaken=declared.mistaken, locate=declared.locate)
    settings, own_mistakes = read_settings(paths.own_file, is_root=os.geteuid() == 0)
    if declared.mistakes or own_mistakes:
        plan = None
    return DeclaredPlan(
        plan=plan,
        mistakes=tuple(sorted(own_mistakes)) + tuple(sorted(declared.mistakes + mistakes)),
        cautions=tuple(sorted(_cautions(declared, paths.trusted))),
        sound=sound_plan(declared.services) if plan is None else plan,
        settings=settings,
    )


def _cautions(declared: Declared, shipped: Collection[str]) -> Iterator[Mistake]:
    """What is to be told of services; of what was shipped and nobody has added to, nothing: nobody has thought so."""
    for service in declared.services:
        if os.path.dirname(service.source) in shipped:
            continue
        for caution in service.cautions:
            place = declared.locate(service.source, None, caution.key)
            yield msgspec.structs.replace(place.mistake(caution.words), key=caution.key)


def declared_in(paths: Paths, file: str) -> Declared:
    """What one file declares, wherever it lies."""
    return declared_services([file], TYPES, _facts(paths))


def remade(paths: Paths, kept: str, *, explained: bool = False) -> tuple[Service, ...]:
    """The services of a declaration that is no longer there, or no longer right, as a service of it carried it along.

    Args:
        paths: where things lie.
        kept: the declaration.
        explained: whether they have what ``herd configuration`` tells.

    Raises:
        ValueError: this herdpy cannot make them.
    """
    return remade_services(kept, TYPES, _facts(paths), explained=explained)


def _facts(paths: Paths) -> HostFacts:
    directories = Directories(
        state=paths.state,
        log=paths.log,
        configuration=paths.configuration,
        runtime=paths.runtime,
        socket=paths.socket,
        secrets=paths.secrets,
    )
    return gather(directories)
