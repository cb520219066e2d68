"""What QEMU's network options say: read as they were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.qemu.network import Forwarding, forwardings_in, host_port, rtl8139_network, virtio_network

PORTS = st.integers(1, 65535)
FORWARDINGS = st.lists(
    st.builds(
        Forwarding,
        host=PORTS,
        guest=PORTS,
        protocol=st.sampled_from(["tcp", "udp"]),
        address=st.sampled_from(["", "127.0.0.1", "192.0.2.1"]),
    )
).map(tuple)


@given(FORWARDINGS)
def test_what_is_made_is_read_back(forwardings: tuple[Forwarding, ...]) -> None:
    assert forwardings_in(rtl8139_network(forwardings)) == forwardings
    assert forwardings_in(virtio_network(forwardings, is_open=False)) == forwardings


def test_qemus_short_forms() -> None:
    read = forwardings_in(["-netdev", "user,id=n,hostfwd=::2222-:22,hostname=h,hostfwd=udp:10.0.0.1:53-10.0.2.15:53"])
    assert read == (
        Forwarding(host=2222, guest=22, address=""),
        Forwarding(host=53, guest=53, protocol="udp", address="10.0.0.1"),
    )
    assert str(read[0].port.address) == "0.0.0.0"
    assert list(map(str, read)) == ["0.0.0.0:2222 -> 22", "udp 10.0.0.1:53 -> 53"]


@pytest.mark.parametrize("rule", ["", "tcp", "tcp::x-:22", "tcp::0-:22", "tcp::70000-:22", "sctp::1-:2", "tcp::1-2"])
def test_what_cannot_be_understood_is_told(rule: str) -> None:
    with pytest.raises(ValueError, match="hostfwd=") as caught:
        forwardings_in([f"user,hostfwd={rule}"])
    assert str(caught.value) == f"hostfwd={rule}"


def test_the_way_in_is_one_that_loopback_reaches() -> None:
    elsewhere = Forwarding(host=1, guest=22, address="192.0.2.1")
    datagrams = Forwarding(host=2, guest=22, protocol="udp")
    assert host_port([elsewhere, datagrams], 22) is None
    assert host_port([elsewhere, Forwarding(host=3, guest=22), Forwarding(host=4, guest=2222)], 2222, 22) == 4
