"""Addresses as people write them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.activation.address import AddressMistake, parse
from herdpy.service import InternetAddress, UnixAddress

PORTS = st.integers(0, 65535)


@pytest.mark.parametrize(
    ("text", "address", "kind"),
    [
        ("127.0.0.1:8080", InternetAddress("127.0.0.1", 8080), None),
        ("0.0.0.0:80", InternetAddress("0.0.0.0", 80), None),
        ("[::1]:8080", InternetAddress("::1", 8080), None),
        ("[::]:80", InternetAddress("::", 80), None),
        ("[2001:DB8::0001]:80", InternetAddress("2001:db8::1", 80), None),
        ("[fe80::1%eth0]:80", InternetAddress("fe80::1%eth0", 80), None),
        ("*:80", InternetAddress("", 80), None),
        ("tcp:*:80", InternetAddress("", 80), "stream"),
        ("udp:127.0.0.1:53", InternetAddress("127.0.0.1", 53), "datagram"),
        ("udp:[::1]:53", InternetAddress("::1", 53), "datagram"),
        ("unix:/run/a b", UnixAddress("/run/a b"), None),
        ("unix:@name", UnixAddress("@name"), None),
        ("unix:/" + 106 * "x", UnixAddress("/" + 106 * "x"), None),
    ],
)
def test_what_is_an_address(text: str, address: object, kind: str | None) -> None:
    assert parse(text) == (address, kind)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("8080", "expected an address and a port"),
        ("", "expected an address and a port"),
        (":80", "expected an address and a port"),
        ("udp:53", "expected an address and a port"),
        ("::1:80", "in brackets"),
        ("::1", "in brackets"),
        ("[::1:80", "in brackets"),
        ("::1]:80", "in brackets"),
        ("[127.0.0.1]:80", "write 127.0.0.1:80"),
        ("[foo]:80", "'foo' is no IPv6 address"),
        ("localhost:80", "write 127.0.0.1:80, [::1]:80, or both"),
        ("example.org:80", "names are not looked up"),
        ("127.0.0.1:", "expected a port"),
        ("127.0.0.1:http", "expected a port"),
        ("127.0.0.1:65536", "expected a port"),
        ("127.0.0.1:٣", "expected a port"),
        ("127.0.0.1:-1", "expected a port"),
        ("127.0.0.01:80", "is no IP address"),
        ("/run/x", "write unix:/run/x"),
        ("@x", "write unix:@x"),
        ("unix:x", "expected an absolute path"),
        ("unix:", "expected an absolute path"),
        ("unix:@", "names no socket"),
        ("unix:/run/", "names no socket"),
        ("unix:/a\0b", "NUL"),
        ("unix:/" + 107 * "x", "108 bytes are too long"),
        ("unix:/" + 54 * "é", "109 bytes are too long"),
    ],
)
def test_what_is_none(text: str, problem: str) -> None:
    with pytest.raises(AddressMistake) as raised:
        parse(text)
    assert problem in str(raised.value)


@given(st.ip_addresses(), PORTS)
def test_what_is_written_is_read(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    found = parse(f"{host}:{port}").address
    assert found == InternetAddress(str(address), port)
    assert parse(str(found)).address == found


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=26))
def test_paths_and_abstract_names_are_taken_as_they_are(name: str) -> None:
    if not name.endswith("/"):
        assert parse(f"unix:@{name}").address == UnixAddress(f"@{name}")
        assert str(parse(f"unix:/{name}").address) == f"unix:/{name}"


@given(st.text() | st.from_regex(r"(udp:|tcp:|unix:)?[\[\]:.*@/0-9a-f%]*", fullmatch=True))
def test_anything_else_is_told_in_words(text: str) -> None:
    try:
        found = parse(text)
    except AddressMistake as mistake:
        assert str(mistake)
    else:
        assert parse(str(found.address)).address == found.address
