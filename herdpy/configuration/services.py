"""The services that the declarations make on this host."""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from herdpy.catalogue.common import Declaration, ServiceType, Unsuitable
from herdpy.catalogue.facts import HostFacts
from herdpy.configuration.declarations import load
from herdpy.mistake import Mistake, Place
from herdpy.service import Service


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """Every service that is declared, and every mistake so far; the plan finds those between services."""

    services: tuple[Service, ...]
    mistakes: tuple[Mistake, ...]
    mistaken: frozenset[str]
    """Names of services that would be declared but for the mistakes."""
    declarations: tuple[Declaration, ...]

    def locate(self, source: str, value: object, key: str = "") -> Place:
        """Where a declaration says something.

        Args:
            source: the declaration's, as each of its services has it.
            value: what it says.
            key: below which key; empty means anywhere.
        """
        for declaration in self.declarations:  # only mistakes are located: no index for them
            if declaration.source == source:
                return declaration.locations.place_of_value(value, key)
        return Place(file=source, key=key)


def declared_services(
    layers: Iterable[str],
    types: Mapping[str, ServiceType],
    facts: HostFacts,
    *,
    trusted: Collection[str] = (),
) -> Declared:
    """Load the configuration and let each declaration's type make its services.

    Args:
        layers, types, trusted: as :func:`herdpy.configuration.load` has them.
        facts: the machine.
    """
    configuration = load(layers, types, is_root=facts.is_root, trusted=trusted)
    services: list[Service] = []
    mistakes = list(configuration.mistakes)
    mistaken = set(configuration.mistaken)
    for declaration in configuration.declarations:
        try:
            services += types[declaration.type].services(declaration, facts)
        except Unsuitable as problem:
            mistakes.append(declaration.locations.place(problem.key).mistake(problem.problem))
            mistaken.update(declaration.provision)
    return Declared(
        services=tuple(services),
        mistakes=tuple(sorted(mistakes)),
        mistaken=frozenset(mistaken),
        declarations=configuration.declarations,
    )
