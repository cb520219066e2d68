"""The type ``host``: something that holds of the whole host, for other services to require."""

from typing import Annotated, Literal

import msgspec

from herdpy.catalogue.common import Common, Declaration, ServiceType, as_service
from herdpy.catalogue.facts import HostFacts
from herdpy.preparation.loopback import Loopback
from herdpy.preparation.networking import Networking
from herdpy.preparation.udev import Udev
from herdpy.service import Service, Step, plain

DOCUMENTATION = {
    "loopback": "The loopback network interface is up.",
    "networking": "The host has a network.",
    "udev": "Device files are there.",
    "user-processes": "The host is ready for the processes of its users.",
}


class HostConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``host``."""

    state: Literal["loopback", "networking", "udev", "user-processes"]
    """What holds while the service runs. ``loopback``: the interface lo is up; root's herdpy brings it up.
    ``networking``: an interface other than lo is up and has an address; it is waited for, and what brings it up is the
    host's. ``udev``: udevd runs, or this host has none. ``user-processes``: whatever else the host needs has been
    started; it holds as soon as everything that this declaration requires runs."""
    patience: Annotated[float, msgspec.Meta(ge=0, le=31536000)] = 10.0
    """Seconds that ``networking`` and ``udev`` are waited for."""
    mandatory: bool = False
    """Whether the start fails when ``networking`` has not come after these seconds. Otherwise it succeeds, and the
    status says that there is only lo: much of what requires a network works without one."""


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service without a process."""
    configuration: HostConfiguration = declaration.configuration
    return (
        as_service(
            declaration,
            documentation=DOCUMENTATION[configuration.state],
            prepare=_steps(configuration),
            facts=(
                plain("type", "type", declaration.type),
                plain("state", "state", configuration.state),
                plain("source", "source", declaration.source),
            ),
        ),
    )


def _steps(configuration: HostConfiguration) -> tuple[Step, ...]:
    match configuration.state:
        case "loopback":
            return (Loopback(),)
        case "networking":
            return (Networking(patience=configuration.patience, is_mandatory=configuration.mandatory),)
        case "udev":
            return (Udev(patience=configuration.patience),)
        case "user-processes":
            return ()


TYPE = ServiceType(
    name="host",
    configuration=HostConfiguration,
    services=services,
    documentation="Something that holds of the whole host, for other services to require.",
)
