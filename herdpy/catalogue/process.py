"""The type ``process``: one command, running as long as it does."""

import math
import os
from collections.abc import Iterator

import msgspec

from herdpy.catalogue import command
from herdpy.catalogue.command import CommandConfiguration
from herdpy.catalogue.common import Declaration, ServiceType, rotation_facts
from herdpy.catalogue.facts import HostFacts
from herdpy.service import Attempt, Fact, Service, plain


class ProcessConfiguration(CommandConfiguration, frozen=True, kw_only=True):
    """The fields of a declaration of type ``process``."""

    one_shot: bool = False
    """Whether it is done, and the service stopped again, when the process has ended with success: then what requires
    it is started. Without start-timeout it may take as long as it likes."""


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that runs the command.

    Raises:
        Unsuitable: it names a user or groups, but herdpy does not run as root.
    """
    configuration: ProcessConfiguration = declaration.configuration
    attempt = Attempt(process=command.process(declaration, facts), prepare=command.preparation(declaration, facts))
    if configuration.start_timeout is not None or configuration.one_shot:
        attempt = msgspec.structs.replace(attempt, timeout=configuration.start_timeout or math.inf)
    return (
        Service(
            provision=declaration.provision,
            requirement=configuration.requirement,
            wants=configuration.wants,
            after=configuration.after,
            one_shot=configuration.one_shot,
            essential=configuration.essential,
            transient=configuration.transient,
            documentation=configuration.documentation or f"Run {os.path.basename(configuration.command[0])}.",
            source=declaration.source,
            auto_start=configuration.auto_start,
            attempts=(attempt,),
            aftermath=command.aftermath(declaration, facts),
            stop=command.stop(configuration),
            respawn=configuration.respawn_policy(),
            log_file=configuration.log_file,
            log_rotation=configuration.rotation(),
            facts=tuple(_facts(declaration, facts)),
        ),
    )


def _facts(declaration: Declaration, facts: HostFacts) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME``."""
    yield plain("type", "type", declaration.type)
    yield from command.command_facts(declaration, facts)
    configuration: ProcessConfiguration = declaration.configuration
    yield plain("log-file", "log-file", configuration.log_file or facts.log_file(declaration.name))
    yield from rotation_facts(configuration)
    yield plain("source", "source", declaration.source)


TYPE = ServiceType(
    name="process",
    configuration=ProcessConfiguration,
    services=services,
    documentation="Runs a command and keeps it running.",
)
