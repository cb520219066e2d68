"""What a reload does with libvirtd and virtlogd, by the values."""

from typing import Any

import pytest

from herdpy.libvirt.adjusting import Adjust, Server, Settings
from herdpy.libvirt.change import AdjustAndPlace, AdjustAndReexecute, Tell
from herdpy.service import Effect, Service
from tests.catalogue.libvirt_samples import LIBVIRT, NEEDS, VIRTLOG
from tests.catalogue.test_libvirt import made as libvirtd
from tests.catalogue.test_virtlog import made as virtlogd

LIVE = {
    *("log-filters", "log-outputs", "min-workers", "max-workers", "prio-workers"),
    *("max-clients", "max-anonymous-clients", "admin-min-workers", "admin-max-workers", "admin-max-clients"),
}


def effect(before: Service, after: Service) -> Effect:
    assert not isinstance(after.on_change, str)
    return after.on_change.effect(before, after)


@pytest.mark.parametrize("key", list(LIBVIRT))
def test_libvirtd_is_told_what_it_can_be_told_and_restarted_for_the_rest(key: str) -> None:
    value, line = LIBVIRT[key]
    needed = {other: needs for other, needs in NEEDS.get(key, {}).items() if other != key}
    found = effect(libvirtd(), libvirtd(**{**needed, key: value}))
    if key in LIVE:
        assert found.kind == "now"
        assert found.words == f"is told of {key}, and runs on"
        assert isinstance(found.step, AdjustAndPlace)
        assert line is not None and line in found.step.place.content
    elif line is None and key not in {"libvirt", "qemu", "listen"}:  # libvirt ignores it
        assert found.kind == "now"
        assert isinstance(found.step, Tell)
        assert [name for name, _ in found.step.details] == ["warning"]
    else:
        assert found.kind == "restart"
        assert "guests run on" in found.words


def adjusted(**fields: Any) -> Adjust:
    step = effect(libvirtd(), libvirtd(**fields)).step
    assert isinstance(step, AdjustAndPlace)
    return step.adjust


def test_what_libvirtd_is_told() -> None:
    threads = (("minWorkers", 5), ("maxWorkers", 30), ("prioWorkers", 5))
    idle = Server(name="libvirtd"), Server(name="admin")
    assert adjusted(**{"max-workers": 30}).after.servers == (Server(name="libvirtd", threads=threads), idle[1])
    clients = (("nclients_max", 100), ("nclients_unauth_max", 20))
    assert adjusted(**{"max-clients": 100}).after.servers == (Server(name="libvirtd", clients=clients), idle[1])
    said = adjusted(**{"log-filters": "1:qemu", "log-outputs": "2:stderr"})
    assert said.after == Settings(filters="1:qemu", outputs="2:stderr", servers=idle)
    assert said.before == Settings(filters="3:remote 4:event", outputs="3:stderr", servers=idle)
    assert adjusted(**{"log-filters": ""}).after.filters == ""
    said = adjusted(**{"admin-min-workers": 2, "admin-max-clients": 9})
    admin = Server(name="admin", threads=(("minWorkers", 2), ("maxWorkers", 5)), clients=(("nclients_max", 9),))
    assert said.after.servers == (idle[0], admin)
    admin = Server(name="admin", threads=(("minWorkers", 1), ("maxWorkers", 5)), clients=(("nclients_max", 5),))
    assert said.before.servers == (idle[0], admin)


def test_who_may_connect_without_polkit_is_a_change_too() -> None:
    # With polkit both files are the same; without, one of them lets the group in.
    assert effect(libvirtd(), libvirtd(**{"auth-unix-rw": "polkit"})).kind == "restart"


def test_a_change_that_is_none_of_the_daemons_takes_effect_now() -> None:
    assert effect(libvirtd(), libvirtd(respawn=False)).kind == "now"
    assert effect(virtlogd(), virtlogd(respawn=False)) == Effect(kind="now", words="takes effect now")
    assert effect(virtlogd(), virtlogd(**{"start-timeout": 9})).kind == "now"


@pytest.mark.parametrize("key", list(VIRTLOG))
def test_virtlogd_executes_itself_anew(key: str) -> None:
    value, line = VIRTLOG[key]
    found = effect(virtlogd(), virtlogd(**{key: value}))
    if key == "libvirt":  # it would execute the old program
        assert found.kind == "next-start"
        return
    assert (found.kind, found.words) == ("now", "executes itself anew")
    assert isinstance(found.step, AdjustAndReexecute)
    assert found.step.reexecute.content is not None
    assert line is not None and line in found.step.reexecute.content
    server = {"max-clients": "virtlogd", "admin-max-clients": "admin"}.get(key)
    if server is None:
        assert found.step.adjust is None
    else:
        assert found.step.adjust is not None
        clients = (("nclients_max", value), ("nclients_unauth_max", value))
        assert found.step.adjust.after == Settings(servers=(Server(name=server, clients=clients),))


def test_virtlogd_is_not_ended_for_another_log_file() -> None:
    found = effect(virtlogd(), virtlogd(**{"log-file": "/x.log"}))
    assert found == Effect(kind="next-start", words="takes effect at its next start, for guests' logs end with it")
