"""The type ``inetd``: a command for each connection, which is its stdin and stdout."""

import os
from collections.abc import Iterator
from typing import Annotated

import msgspec

from herdpy.activation.serving import ServeConnections
from herdpy.catalogue import command
from herdpy.catalogue.command import CommandConfiguration
from herdpy.catalogue.common import Declaration, ServiceType, as_service, rotation_facts
from herdpy.catalogue.facts import HostFacts
from herdpy.catalogue.sockets import SocketTable, declared_sockets, ports, socket_facts, socket_mistakes
from herdpy.service import Fact, Service, plain


class InetdConfiguration(CommandConfiguration, frozen=True, kw_only=True):
    """The fields of a declaration of type ``inetd``."""

    sockets: Annotated[tuple[str | SocketTable, ...], msgspec.Meta(min_length=1)]
    """Where the service listens: addresses such as ``"127.0.0.1:8080"`` or ``"unix:/run/NAME"``, or tables with an
    ``address`` and more. For each connection, the command is run with it as stdin and stdout; TCPREMOTEIP,
    TCPREMOTEPORT, TCPLOCALIP and TCPLOCALPORT tell whose it is, and REMOTE_ADDR and REMOTE_PORT; by a Unix socket
    UNIXREMOTEPID, UNIXREMOTEEUID and UNIXREMOTEEGID. Stderr goes to the log file."""
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    """So many connections at a time; further ones wait until one has ended."""
    max_connections_per_address: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """So many of them from one address, or by a Unix socket from one user; further ones are closed at once. None means
    as many as there may be at all."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        yield from socket_mistakes(self.sockets, connects=True)


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that listens, and runs the command for each connection.

    Raises:
        Unsuitable: it names a user or groups, but herdpy does not run as root.
    """
    configuration: InetdConfiguration = declaration.configuration
    sockets = declared_sockets(declaration)
    service = as_service(
        declaration,
        documentation=f"Run {os.path.basename(configuration.command[0])} for each connection.",
        prepare=command.preparation(declaration, facts),
        aftermath=command.aftermath(declaration, facts),
        sockets=sockets,
        ports=ports(sockets),
        attendant=ServeConnections(
            process=command.process(declaration, facts),
            sockets=len(sockets),
            max_connections=configuration.max_connections,
            max_connections_per_address=configuration.max_connections_per_address,
        ),
        stop=command.stop(configuration),
        facts=tuple(_facts(declaration, facts)),
    )
    return (service,)


def _facts(declaration: Declaration, facts: HostFacts) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME``."""
    configuration: InetdConfiguration = declaration.configuration
    yield plain("type", "type", declaration.type)
    yield from socket_facts(declaration)
    yield plain("max-connections", "max-connections", configuration.max_connections)
    if configuration.max_connections_per_address is not None:
        most = configuration.max_connections_per_address
        yield plain("max-connections-per-address", "max-connections-per-address", most)
    yield from command.command_facts(declaration, facts)
    yield plain("log-file", "log-file", configuration.log_file or facts.log_file(declaration.name))
    yield from rotation_facts(configuration)
    yield plain("source", "source", declaration.source)


TYPE = ServiceType(
    name="inetd",
    configuration=InetdConfiguration,
    services=services,
    documentation="Listens, and runs a command for each connection, which is its stdin and stdout.",
)
