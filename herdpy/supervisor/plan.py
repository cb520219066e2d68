"""The plan: a set of services, checked as a whole before anything acts on it. Pure, and linear in their number."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address

import msgspec

from herdpy.mistake import Mistake, Place, did_you_mean
from herdpy.service import InternetAddress, Port, Service, UnixAddress

RESERVED_NAMES = frozenset({"root", "shepherd", "herdpy"})
"""The names by which Shepherd's clients mean the supervisor itself, and the one that its log has."""

ANY_IPV4 = "0.0.0.0"  # noqa: S104 - compared with, never bound to
ANY_IPV6 = "::"

Locate = Callable[[str, object, str], Place]
"""(source, value, key) -> where that declaration says the value, below that key or anywhere for an empty one."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Services that can all be run together."""

    services: tuple[Service, ...]
    """By canonical name."""
    by_name: dict[str, Service]
    """By each provided name."""
    requirements: dict[str, tuple[str, ...]]
    """Canonical name -> canonical names of the services it requires, in the order it names them, each once."""
    dependents: dict[str, tuple[str, ...]]
    """Canonical name -> canonical names of the services that require it, sorted."""
    waves: tuple[tuple[str, ...], ...]
    """Canonical names, sorted: the first wave waits for nothing, each other one only for waves before it."""


def make_plan(
    services: Iterable[Service], *, mistaken: Collection[str] = (), locate: Locate | None = None
) -> tuple[Plan | None, tuple[Mistake, ...]]:
    """Check services against one another.

    Args:
        services: of all declarations.
        mistaken: names that declarations would provide but for mistakes told already. To require one of them, or a name
            that continues one after a ``-`` (a declaration may make several services), is not told as a mistake too.
        locate: finds the lines of mistakes (``Declared.locate``); without it mistakes name only files.

    Returns:
        The plan, or None when there is a mistake; and all mistakes.
    """
    locate = locate or _name_the_file
    ordered = tuple(sorted(services, key=lambda service: service.name))
    by_name, mistakes = _provisions(ordered, locate)
    mistakes += _unknown_requirements(ordered, by_name, frozenset(mistaken), locate)
    requirements = _requirements(ordered, by_name)
    dependents = _reversed(requirements)
    order = _order(ordered, by_name, requirements)
    waves = _waves(order, _reversed(order))
    unplaced = order.keys() - {name for wave in waves for name in wave}
    mistakes += [_cycle_mistake(cycle, by_name, locate) for cycle in _cycles(unplaced, order)]
    mistakes += _port_conflicts(ordered, locate)
    mistakes += _path_conflicts(ordered, locate)
    if mistakes:
        return None, tuple(mistakes)
    return Plan(services=ordered, by_name=by_name, requirements=requirements, dependents=dependents, waves=waves), ()


def sound_plan(services: Iterable[Service]) -> Plan:
    """The plan of the services that can run in spite of mistakes, for a supervisor that has to go on with some.

    Left out are those that provide a name that is reserved or taken, those with a requirement that nothing provides or
    that is in a cycle, and whatever requires one that is left out. Conflicts of ports and paths show when the second
    one starts.
    """
    by_name: dict[str, Service] = {}
    candidates = []
    for service in sorted(services, key=lambda service: service.name):
        names = frozenset(service.provision)
        if names.isdisjoint(RESERVED_NAMES) and names.isdisjoint(by_name):
            candidates.append(service)
            by_name |= dict.fromkeys(service.provision, service)
    requirements = {
        service.name: required
        for service, required in zip(candidates, _requirements(candidates, by_name).values(), strict=True)
        if all(name in by_name for name in (*service.requirement, *service.members))
    }
    dependents = _reversed(requirements)
    order = _order([service for service in candidates if service.name in requirements], by_name, requirements)
    waves = _waves(order, _reversed(order))
    placed = {name for wave in waves for name in wave}
    return Plan(
        services=tuple(service for service in candidates if service.name in placed),
        by_name={name: service for name, service in by_name.items() if service.name in placed},
        requirements={name: required for name, required in requirements.items() if name in placed},
        dependents={
            name: tuple(other for other in others if other in placed)
            for name, others in dependents.items()
            if name in placed
        },
        waves=waves,
    )


def _requirements(services: Iterable[Service], by_name: Mapping[str, Service]) -> dict[str, tuple[str, ...]]:
    """The canonical names behind each service's requirements; unknown ones are left out."""
    return {
        service.name: tuple(dict.fromkeys(by_name[name].name for name in service.requirement if name in by_name))
        for service in services
    }


def _order(
    services: Iterable[Service], by_name: Mapping[str, Service], requirements: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """The canonical names that each service waits for at its start: what it requires, its members, what it comes after.

    What it only comes after need not be there.
    """
    return {
        service.name: tuple(
            dict.fromkeys(
                (
                    *requirements[service.name],
                    *(
                        by_name[name].name
                        for name in (*service.members, *service.after)
                        if name in by_name and by_name[name].name in requirements
                    ),
                )
            )
        )
        for service in services
    }


def _name_the_file(source: str, value: object, key: str) -> Place:
    return Place(file=source, key=key)


def _provisions(services: Sequence[Service], locate: Locate) -> tuple[dict[str, Service], list[Mistake]]:
    """The services by each name; the first one keeps a name that two provide."""
    by_name: dict[str, Service] = {}
    mistakes = []
    for service in services:
        for name in dict.fromkeys(service.provision):
            first = by_name.setdefault(name, service)
            if name in RESERVED_NAMES:
                problem = f"{name} is a name of herdpy itself; choose another"
            elif first is not service:
                problem = f"{service.name} provides {name}, and so does {_said(first)}"
                problem += _how_to_tell_apart(service, first)
            else:
                continue
            mistakes.append(locate(service.source, name, "provision").mistake(problem))
    return by_name, mistakes


def _how_to_tell_apart(service: Service, other: Service) -> str:
    """For two of one file: its ``instances``, mostly."""
    if not service.source or service.source != other.source:
        return ""
    return '; give each instance names of its own, by "%d" where a key takes its number, or %i in a string'


def _said(service: Service) -> str:
    """A service with its declaration."""
    return f"{service.name} ({service.source})" if service.source else service.name


def _unknown_requirements(
    services: Iterable[Service], by_name: Mapping[str, Service], mistaken: frozenset[str], locate: Locate
) -> Iterator[Mistake]:
    for service in services:
        for name in dict.fromkeys(service.requirement):
            if name not in by_name and not _would_be_provided(name, mistaken):
                near = did_you_mean(name, by_name, mistaken)
                problem = f"{service.name} requires {name}, which nothing provides{near}"
                yield locate(service.source, name, "requirement").mistake(problem)
        for name in dict.fromkeys(service.members):
            if name not in by_name and not _would_be_provided(name, mistaken):
                problem = f"{service.name} has the member {name}, which nothing provides"
                yield locate(service.source, name, "members").mistake(problem + did_you_mean(name, by_name, mistaken))


def _would_be_provided(name: str, mistaken: frozenset[str]) -> bool:
    parts = name.split("-")
    return any("-".join(parts[:length]) in mistaken for length in range(1, len(parts) + 1))


def _reversed(requirements: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    dependents: dict[str, list[str]] = {name: [] for name in requirements}
    for name, required in requirements.items():
        for other in required:
            if other in dependents:
                dependents[other].append(name)
    return {name: tuple(sorted(names)) for name, names in dependents.items()}


def _waves(
    requirements: Mapping[str, tuple[str, ...]], dependents: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Kahn's algorithm, all that is ready at a time. In no wave is what requires something that never gets ready."""
    missing = {name: len(required) for name, required in requirements.items()}
    waves = []
    wave = sorted(name for name, count in missing.items() if count == 0)
    while wave:
        waves.append(tuple(wave))
        ready = []
        for name in wave:
            for dependent in dependents[name]:
                missing[dependent] -= 1
                if missing[dependent] == 0:
                    ready.append(dependent)
        wave = sorted(ready)
    return tuple(waves)


def _cycles(names: Collection[str], requirements: Mapping[str, tuple[str, ...]]) -> Iterator[list[str]]:
    """Cycles, such as ``[a, b]`` when a requires b and b requires a; no service is in two of them.

    A walk from each service to what it requires. Whatever turns out to be in a cycle, or to require nothing that is
    left, is left out from then on, so that each requirement is followed once.

    Args:
        names: the services that no wave holds.
    """
    left = set(names)
    unfollowed = {name: iter(requirements[name]) for name in names}
    for start in sorted(names):
        walk = [start] if start in left else []
        position = dict.fromkeys(walk, 0)
        while walk:
            following = next((name for name in unfollowed[walk[-1]] if name in left), None)
            if following is None:
                ended = [walk.pop()]
            elif following in position:
                ended = walk[position[following] :]
                del walk[position[following] :]
                yield ended
            else:
                position[following] = len(walk)
                walk.append(following)
                continue
            left.difference_update(ended)
            for name in ended:
                del position[name]


def _cycle_mistake(cycle: Sequence[str], by_name: Mapping[str, Service], locate: Locate) -> Mistake:
    first = cycle.index(min(cycle))
    names = [*cycle[first:], *cycle[:first]]
    shown = names if len(names) <= 12 else [*names[:8], f"({len(names) - 10} more)", *names[-2:]]
    path = " -> ".join([*shown, names[0]])
    sources = dict.fromkeys(by_name[name].source for name in names[:12] if by_name[name].source)
    declared = f" (declared in {', '.join(sources)})" if sources else ""
    service = by_name[names[0]]
    following = names[1 % len(names)]
    # The declaration may say any of the next service's names.
    key, said = next(
        (key, name)
        for key, names in (
            ("requirement", service.requirement),
            ("members", service.members),
            ("after", service.after),
        )
        for name in names
        if name in by_name and by_name[name].name == following
    )
    problem = f"services that wait for one another can never start: {path}{declared}"
    return locate(service.source, said, key).mistake(problem)


def _port_conflicts(services: Iterable[Service], locate: Locate) -> Iterator[Mistake]:
    """A mistake for each claim to a port of the host that an earlier claim overlaps."""
    claims: dict[tuple[str, int], dict[str, Service]] = {}
    for service in services:
        for port in service.ports:
            if port.port == 0:  # the kernel will choose a free one
                continue
            address = _address(port)
            earlier = claims.setdefault((port.protocol, port.port), {})
            for other in _overlapping(address, earlier):
                first = earlier[other]
                claim = f"host port {port.port} ({port.protocol})"
                place = locate(service.source, *_said_of(port, service))
                yield place.mistake(_conflict(claim, service, first))
                break
            earlier.setdefault(address, service)


def _said_of(port: Port, service: Service) -> tuple[object, str]:
    """What a declaration says of a port, and below which key: of a socket's, its address."""
    for wanted in service.sockets:
        address, protocol = wanted.address, "udp" if wanted.kind == "datagram" else "tcp"
        if not isinstance(address, InternetAddress):
            continue
        host = address.host.partition("%")[0] or "*"
        if (host, address.port, protocol) == (port.address, port.port, port.protocol):
            return str(wanted), "sockets"
    return port.port, ""


def _path_conflicts(services: Iterable[Service], locate: Locate) -> Iterator[Mistake]:
    """A mistake for each Unix socket that an earlier one has the path of, or the abstract name."""
    claims: dict[str, Service] = {}
    for service in services:
        for wanted in service.sockets:
            if not isinstance(wanted.address, UnixAddress):
                continue
            first = claims.setdefault(wanted.address.shortest, service)
            if first is not service:
                problem = _conflict(f"the socket {wanted}", service, first)
                yield locate(service.source, str(wanted), "sockets").mistake(problem)


def _conflict(claim: str, service: Service, first: Service) -> str:
    if first is service:
        return f"{service.name} claims {claim} twice; change one of the two"
    return f"{service.name} claims {claim}, and so does {_said(first)}; change one of the two"


def _address(port: Port) -> str:
    """The address in its shortest form; ``""`` for all addresses of either family, ``::`` for all of IPv6."""
    if port.v6_only and port.address == ANY_IPV6:
        return ANY_IPV6
    if port.address in {"", "*", "::"}:
        return ""
    if port.address == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(port.address))
    except ValueError:
        return port.address


def _overlapping(address: str, claimed: Mapping[str, Service]) -> Iterator[str]:
    """The claimed addresses that an address overlaps."""
    if address in claimed:
        yield address
    elif "" in claimed:
        yield ""
    elif address == "":
        yield from claimed
    elif address == ANY_IPV4:
        yield from (other for other in claimed if ":" not in other)
    elif ANY_IPV4 in claimed and ":" not in address:
        yield ANY_IPV4
    elif address == ANY_IPV6:
        yield from (other for other in claimed if ":" in other)
    elif ANY_IPV6 in claimed and ":" in address:
        yield ANY_IPV6
