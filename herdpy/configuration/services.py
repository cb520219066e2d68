"""The services that the declarations make on this host."""

from collections.abc import Collection, Iterable, Mapping
from functools import cache

import msgspec

from herdpy.catalogue.common import Declaration, Locations, ServiceType, Unsuitable
from herdpy.catalogue.facts import HostFacts
from herdpy.configuration.declarations import Mistakes, declarations
from herdpy.mistake import Mistake, Place, own_mistake
from herdpy.service import Service


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """Every service that is declared, and every mistake so far; the plan finds those between services."""

    services: tuple[Service, ...]
    mistakes: tuple[Mistake, ...]
    mistaken: frozenset[str]
    """Names of services that would be declared but for the mistakes."""
    locations: dict[str, Locations]
    """Of what each file declares, for :meth:`locate`."""

    def locate(self, source: str, value: object, key: str = "") -> Place:
        """Where a declaration says something.

        Args:
            source: the declaration's, as each of its services has it.
            value: what it says.
            key: below which key; empty means anywhere.
        """
        its = self.locations.get(source)
        return Place(file=source, key=key) if its is None else its.place_of_value(value, key)


def declared_services(
    layers: Iterable[str],
    types: Mapping[str, ServiceType],
    facts: HostFacts,
    *,
    trusted: Collection[str] = (),
) -> Declared:
    """Load the configuration and let each declaration's type make its services.

    Args:
        layers, types, trusted: as :func:`herdpy.configuration.declarations.declarations` has them.
        facts: the machine.
    """
    services: list[Service] = []
    locations: dict[str, Locations] = {}
    mistakes = Mistakes()
    for declaration in declarations(layers, types, mistakes, is_root=facts.is_root, trusted=trusted):
        locations.setdefault(declaration.source, declaration.locations)
        try:
            made = types[declaration.type].services(declaration, facts)
            text = _kept(declaration)
            # The facts are seldom asked for, and are made again then.
            services += [msgspec.structs.replace(service, declaration=text, facts=()) for service in made]
        except Unsuitable as problem:
            place = declaration.locations.place(problem.key)
            mistakes.add([place.mistake(problem.problem)], *declaration.provision)
        except Exception as error:
            mistakes.add([declaration.locations.place("").mistake(own_mistake(error))], *declaration.provision)
    return Declared(
        services=tuple(services),
        mistakes=tuple(sorted(mistakes.found)),
        mistaken=frozenset(mistakes.names),
        locations=locations,
    )


class _Kept(msgspec.Struct, frozen=True):
    """A declaration as a service carries it along."""

    name: str
    source: str
    type: str
    configuration: msgspec.Raw


class _Nowhere(msgspec.Struct, frozen=True):
    """The locations of a declaration that is no longer in its file."""

    source: str

    def place(self, key: str) -> Place:
        return Place(file=self.source, key=key)

    def place_of_value(self, value: object, key: str = "") -> Place:
        return Place(file=self.source, key=key)


@cache
def _defaults(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, object], ...]:
    """Of each field its name, its key, and its default; it is equal to nothing where there is none."""
    return tuple(
        (
            field.name,
            field.encode_name,
            field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory(),
        )
        for field in msgspec.structs.fields(kind)
    )


def _declared(configuration: msgspec.Struct) -> dict[str, object]:
    values = ((key, getattr(configuration, name), default) for name, key, default in _defaults(type(configuration)))
    return {key: value for key, value, default in values if value != default}


def _kept(declaration: Declaration) -> str:
    """Without what is as its type has it by default, which is most: each service's is in memory twice, and noted."""
    configuration = msgspec.Raw(msgspec.json.encode(_declared(declaration.configuration)))
    kept = _Kept(declaration.name, declaration.source, declaration.type, configuration)
    return msgspec.json.encode(kept).decode()


def remade_services(
    kept: str, types: Mapping[str, ServiceType], facts: HostFacts, *, explained: bool = False
) -> tuple[Service, ...]:
    """Make the services of a declaration from what one of them carried along (``Service.declaration``).

    Args:
        kept: that.
        types, facts: as of :func:`declared_services`, which leaves out the services' own facts as this does.
        explained: whether they have those.

    Raises:
        ValueError: that is no declaration of this herdpy.
    """
    try:
        read = msgspec.json.decode(kept, type=_Kept)
        service_type = types[read.type]
        declaration = Declaration(
            name=read.name,
            source=read.source,
            type=read.type,
            configuration=msgspec.json.decode(read.configuration, type=service_type.configuration),
            locations=_Nowhere(read.source),
        )
        problems = [f"{key}: {problem}" for key, problem in declaration.configuration.check()]
        if problems:
            raise ValueError("; ".join(problems))
        made = service_type.services(declaration, facts)
    except (msgspec.MsgspecError, KeyError, Unsuitable, ValueError) as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(own_mistake(error)) from error
    return tuple(
        msgspec.structs.replace(service, declaration=kept, facts=service.facts if explained else ()) for service in made
    )
