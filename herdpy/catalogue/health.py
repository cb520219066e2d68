"""The table ``health``: how one tells that a service that runs is still of use."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec

from herdpy.catalogue.ready import command_mistakes
from herdpy.service import Guard, Process

if TYPE_CHECKING:
    from herdpy.readiness.health import Probe


class Health(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A probe that is made again and again while the service runs: one of ``command``, ``tcp`` and ``http``."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None = None
    """A command that ends with 0 while the service is well, run as the service itself is."""
    tcp: str | None = None
    """``"ADDRESS:PORT"`` that takes connections: an IP address, such as ``"127.0.0.1:6379"`` or ``"[::1]:6379"``."""
    http: str | None = None
    """A URL such as ``"http://127.0.0.1:8080/health"``, with an IP address or localhost, that answers a GET."""
    statuses: tuple[Annotated[int, msgspec.Meta(ge=100, le=599)], ...] = ()
    """The statuses that are right for ``http``; empty means any from 200 to 399."""
    interval: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """Seconds from the end of a probe to the next one."""
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Seconds that a probe may take; one that takes longer has failed."""
    failures: Annotated[int, msgspec.Meta(ge=1)] = 3
    """After so many failures in a row the service is ended, which counts as a failure of its own."""
    delay: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Seconds from the start to the first probe; None means one interval."""


def mistakes(key: str, health: Health) -> Iterator[tuple[str, str]]:
    """What the types of the fields cannot say: (key path, problem) of each mistake."""
    given = [name for name in ("command", "tcp", "http") if getattr(health, name) is not None]
    if len(given) != 1:
        said = f"gives {' and '.join(given)}" if given else "gives none of them"
        yield key, f"expected one of command, tcp and http; it {said}"
    for name in ("interval", "timeout", "delay"):
        seconds = getattr(health, name)
        if seconds is not None and seconds > _LONGEST:
            yield f"{key}.{name}", f"expected a number of seconds up to {_LONGEST}, got {seconds:g}"
    if health.command is not None:
        yield from command_mistakes(f"{key}.command", health.command)
    for name in ("tcp", "http"):
        if (text := getattr(health, name)) is not None:
            try:
                _tcp(text) if name == "tcp" else _http(text)
            except ValueError as error:
                yield f"{key}.{name}", str(error)
    if health.statuses and health.http is None:
        yield f"{key}.statuses", "only http has statuses"


_LONGEST = 366 * 86400


def guard(health: Health, process: Process) -> Guard:
    """The guard that makes the probe."""
    from herdpy.readiness.health import CheckHealth

    return CheckHealth(
        probe=_probe(health, process),
        interval=health.interval,
        timeout=health.timeout,
        failures=health.failures,
        delay=health.interval if health.delay is None else health.delay,
    )


def _probe(health: Health, process: Process) -> "Probe":
    from herdpy.readiness.health import CommandProbe, HttpProbe, TcpProbe

    if health.command is not None:
        return CommandProbe(msgspec.structs.replace(process, command=health.command))
    if health.tcp is not None:
        return TcpProbe(*_tcp(health.tcp))
    assert health.http is not None
    return HttpProbe(*_http(health.http), health.statuses)


def _tcp(text: str) -> tuple[str, int]:
    from herdpy.readiness.endpoint import split_port

    address, port = split_port(text)
    if not address:
        raise ValueError(f'expected an IP address and a port, such as "127.0.0.1:{port}", got "{text}"')
    return address, port


def _http(text: str) -> tuple[str, int, str]:
    """Address, port, and path with query.

    Raises:
        ValueError: it is no such URL.
    """
    if text.startswith("https://"):
        raise ValueError("herdpy speaks no TLS to a service; write a command, or an address with http://")
    if not text.startswith("http://"):
        raise ValueError(f'expected a URL such as "http://127.0.0.1:8080/health", got "{text}"')
    authority, slash, target = text.removeprefix("http://").partition("/")
    if any(not "!" <= character <= "~" for character in text) or any(sign in text for sign in "@#") or "?" in authority:
        raise ValueError(f'expected a URL of ASCII characters without blanks, user and fragment, got "{text}"')
    if authority == "localhost" or authority.startswith("localhost:"):
        authority = "127.0.0.1" + authority.removeprefix("localhost")
    has_port = authority.rpartition(":")[2].isdecimal() and not authority.endswith("]")
    address, port = _tcp(authority if has_port else f"{authority}:80")
    return address, port, slash + target or "/"


def words(health: Health) -> str:
    """``GET http://127.0.0.1/ every 10 s, within 5 s; 3 failures in a row end it``."""
    if health.command is not None:
        probe = shlex.join(health.command)
    else:
        probe = f"GET {health.http}" if health.http is not None else f"a connection to {health.tcp}"
    times = "1 failure ends it" if health.failures == 1 else f"{health.failures} failures in a row end it"
    return f"{probe} every {health.interval:g} s, within {health.timeout:g} s; {times}"
