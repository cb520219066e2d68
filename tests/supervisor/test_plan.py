"""Sets of services, and what keeps them from being a plan."""

import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.mistake import Place
from herdpy.service import Port, Service, Socket, UnixAddress
from herdpy.supervisor.plan import Plan, make_plan, sound_plan


def service(name: str, *requirement: str, provision: Sequence[str] = (), ports: Sequence[Port] = ()) -> Service:
    return Service(
        provision=(name, *provision), requirement=requirement, source=f"/etc/{name}.toml", ports=tuple(ports)
    )


def plan_of(*services: Service) -> Plan:
    plan, mistakes = make_plan(services)
    assert plan is not None, mistakes
    assert mistakes == ()
    return plan


def mistakes_of(*services: Service, mistaken: Sequence[str] = ()) -> list[str]:
    plan, mistakes = make_plan(services, mistaken=mistaken)
    assert plan is None
    return [str(one) for one in mistakes]


def test_a_plan_knows_names_requirements_dependents_and_waves() -> None:
    plan = plan_of(
        service("vm", "net", "disk", "network"),
        service("network", "udev", provision=["net"]),
        service("disk", "udev"),
        service("udev"),
        service("alone"),
    )
    assert [one.name for one in plan.services] == ["alone", "disk", "network", "udev", "vm"]
    assert plan.by_name["net"] is plan.by_name["network"]
    assert plan.requirements == {
        "alone": (),
        "disk": ("udev",),
        "network": ("udev",),
        "udev": (),
        "vm": ("network", "disk"),
    }
    assert plan.dependents == {
        "alone": (),
        "disk": ("vm",),
        "network": ("vm",),
        "udev": ("disk", "network"),
        "vm": (),
    }
    assert plan.waves == (("alone", "udev"), ("disk", "network"), ("vm",))


def test_nothing_is_a_plan() -> None:
    assert plan_of().services == ()


def test_the_plan_does_not_depend_on_the_order_of_declarations() -> None:
    services = [service("a", "b"), service("b", "c"), service("c")]
    assert plan_of(*services) == plan_of(*reversed(services))


def test_unknown_requirements_are_told_with_near_names() -> None:
    assert mistakes_of(service("vm", "netwrok", "zzz"), service("network")) == [
        "/etc/vm.toml: requirement: vm requires netwrok, which nothing provides; did you mean network?",
        "/etc/vm.toml: requirement: vm requires zzz, which nothing provides",
    ]


def test_what_a_mistaken_declaration_would_provide_is_not_told_again() -> None:
    assert mistakes_of(service("a", "ganeti-noded", "libvirt", "ganetix"), mistaken=["ganeti", "libvirt"]) == [
        "/etc/a.toml: requirement: a requires ganetix, which nothing provides; did you mean ganeti?"
    ]


def test_a_cycle_is_shown_as_a_path_with_its_files() -> None:
    [mistake] = mistakes_of(service("c", "a"), service("a", "other", "b"), service("b", "c"), service("other"))
    assert mistake == (
        "/etc/a.toml: requirement: services that wait for one another can never start: a -> b -> c -> a "
        "(declared in /etc/a.toml, /etc/b.toml, /etc/c.toml)"
    )


def test_a_service_that_requires_itself_is_a_cycle() -> None:
    [mistake] = mistakes_of(service("a", "x", provision=["x"]))
    assert "a -> a" in mistake


def test_every_cycle_is_told_and_nothing_that_only_depends_on_one() -> None:
    mistakes = mistakes_of(
        service("a", "b"),
        service("b", "a"),
        service("c", "a", "d"),
        service("d", "e"),
        service("e", "d"),
        service("after", "c", "self"),
        service("self", "self"),
    )
    assert len(mistakes) == 3
    for path in ("a -> b -> a", "d -> e -> d", "self -> self"):
        assert sum(f": {path} (" in mistake for mistake in mistakes) == 1, mistakes


def test_a_cycle_begins_with_its_first_name() -> None:
    [mistake] = mistakes_of(service("a", "z"), service("z", "m"), service("m", "z"))
    assert ": m -> z -> m (" in mistake


def test_a_long_cycle_is_shortened() -> None:
    names = [f"s{number:04}" for number in range(1000)]
    [mistake] = mistakes_of(*(service(name, after) for name, after in zip(names, names[1:] + names[:1], strict=True)))
    assert len(mistake) < 600
    assert "s0000 -> s0001" in mistake
    assert "(990 more)" in mistake
    assert "s0999 -> s0000" in mistake


def test_two_services_that_provide_one_name() -> None:
    assert mistakes_of(service("a", provision=["net", "net"]), service("b", provision=["net"])) == [
        "/etc/b.toml: provision: b provides net, and so does a (/etc/a.toml)"
    ]


@pytest.mark.parametrize("name", ["root", "shepherd"])
def test_the_supervisors_own_names_are_reserved(name: str) -> None:
    assert mistakes_of(service("a", provision=[name])) == [
        f"/etc/a.toml: provision: {name} is a name of herdpy itself; choose another"
    ]


@pytest.mark.parametrize(
    ("one", "other", "conflicting"),
    [
        (Port(port=1), Port(port=1), True),
        (Port(port=1), Port(port=2), False),
        (Port(port=0), Port(port=0), False),
        (Port(port=1), Port(port=1, protocol="udp"), False),
        (Port(port=1), Port(port=1, address="127.0.0.2"), False),
        (Port(port=1), Port(port=1, address="localhost"), True),
        (Port(port=1), Port(port=1, address="0.0.0.0"), True),
        (Port(port=1), Port(port=1, address=""), True),
        (Port(port=1), Port(port=1, address="::"), True),
        (Port(port=1), Port(port=1, address="::1"), False),
        (Port(port=1, address="::1"), Port(port=1, address="0.0.0.0"), False),
        (Port(port=1, address="::1"), Port(port=1, address="::"), True),
        (Port(port=1, address="::1"), Port(port=1, address="0:0:0:0:0:0:0:1"), True),
        (Port(port=1, address="0.0.0.0"), Port(port=1, address="::"), True),
    ],
)
def test_ports_conflict_where_addresses_overlap(one: Port, other: Port, conflicting: bool) -> None:
    for first, second in ((one, other), (other, one)):
        plan, mistakes = make_plan([service("a", ports=[first]), service("b", ports=[second])])
        assert (plan is None) == conflicting
        if conflicting:
            assert [str(mistake) for mistake in mistakes] == [
                f"/etc/b.toml: b claims host port 1 ({one.protocol}), and so does a (/etc/a.toml); "
                "change one of the two"
            ]


def test_a_service_that_claims_a_port_twice() -> None:
    [mistake] = mistakes_of(service("a", ports=[Port(port=1), Port(port=1)]))
    assert mistake == "/etc/a.toml: a claims host port 1 (tcp) twice; change one of the two"


def test_two_services_that_listen_at_one_path() -> None:
    one, two = (
        Service(provision=(name,), source=f"/etc/{name}.toml", sockets=(Socket(address=UnixAddress("/run/x")),))
        for name in "ab"
    )
    [mistake] = mistakes_of(one, two)
    claims = "b claims the socket unix:/run/x, and so does a (/etc/a.toml); change one of the two"
    assert mistake == f"/etc/b.toml: sockets: {claims}"


def test_all_kinds_of_mistakes_are_told_at_once_where_the_declaration_says_so() -> None:
    asked = []

    def locate(source: str, value: object, key: str) -> Place:
        asked.append((source, value, key))
        return Place(file=source, line=len(asked), key=key or "ports[0]")

    plan, mistakes = make_plan(
        [
            service("a", "nope", "c", ports=[Port(port=7)]),
            service("b", provision=["a"], ports=[Port(port=7)]),
            service("c", "x"),
            service("d", "d", provision=["x"]),
        ],
        locate=locate,
    )
    assert plan is None
    assert asked == [
        ("/etc/b.toml", "a", "provision"),
        ("/etc/a.toml", "nope", "requirement"),
        ("/etc/d.toml", "d", "requirement"),
        ("/etc/b.toml", 7, ""),
    ]
    assert [(one.line, one.key) for one in mistakes] == [
        (1, "provision"),
        (2, "requirement"),
        (3, "requirement"),
        (4, "ports[0]"),
    ]


def test_the_sound_part_of_a_mistaken_plan() -> None:
    plan = sound_plan(
        [
            service("a"),
            service("b", "a", ports=[Port(port=1)]),
            service("b2", "b", ports=[Port(port=1)]),
            service("c", "nope"),
            service("d", "c"),
            service("e", "f", "a"),
            service("f", "e"),
            service("g", provision=["a"]),
            service("h", provision=["root"]),
            service("i", "h"),
        ]
    )
    assert [one.name for one in plan.services] == ["a", "b", "b2"]
    assert plan.by_name.keys() == {"a", "b", "b2"}
    assert plan.dependents == {"a": ("b",), "b": ("b2",), "b2": ()}
    assert plan.requirements == {"a": (), "b": ("a",), "b2": ("b",)}
    assert plan.waves == (("a",), ("b",), ("b2",))


GRAPHS = st.integers(1, 9).flatmap(
    lambda count: st.lists(st.lists(st.integers(0, count - 1), max_size=3), min_size=count, max_size=count)
)


@given(GRAPHS)
def test_waves_or_cycles_for_any_graph(graph: list[list[int]]) -> None:
    services = [service(str(number), *map(str, required)) for number, required in enumerate(graph)]
    plan, mistakes = make_plan(services)
    sound = sound_plan(services)
    if plan is not None:
        wave_of = {name: number for number, wave in enumerate(plan.waves) for name in wave}
        assert len(wave_of) == len(services)
        for number, required in enumerate(graph):
            expected = max((wave_of[str(other)] + 1 for other in required), default=0)
            assert wave_of[str(number)] == expected
        assert sound == plan
        return
    in_cycles = set()
    for mistake in mistakes:
        names = mistake.problem.partition(": ")[2].partition(" (")[0].split(" -> ")
        assert names[0] == names[-1]
        for name, following in pairwise(names):
            assert int(following) in graph[int(name)]
        assert in_cycles.isdisjoint(names)
        in_cycles.update(names)
    # With one service of each told cycle gone there is no cycle left: all of them were told.
    left = {str(number) for number in range(len(graph))} - in_cycles
    rest, _ = make_plan([service(name, *(n for n in map(str, graph[int(name)]) if n in left)) for name in left])
    assert rest is not None
    assert in_cycles.isdisjoint(one.name for one in sound.services)


@pytest.mark.parametrize("is_cycle", [False, True])
def test_ten_thousand_services_in_a_chain(is_cycle: bool) -> None:
    count = 10_000
    services = [
        service(
            f"s{number}",
            *([f"s{number - 1}"] if number or is_cycle else []),
            ports=[Port(port=1 + number % 60_000, address="::1" if number % 2 else "127.0.0.1")],
        )
        for number in range(1 if is_cycle else 0, count)
    ]
    if is_cycle:
        services.append(service("s0", f"s{count - 1}"))
    before = time.process_time()
    plan, mistakes = make_plan(services)
    assert time.process_time() - before < 10
    assert (plan is None) == is_cycle
    assert len(mistakes) == is_cycle
