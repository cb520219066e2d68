"""The type ``target``: a name for a group of services."""

from collections.abc import Iterator

from herdpy.catalogue.common import Common, Declaration, ServiceType, as_service, name_problem
from herdpy.catalogue.facts import HostFacts
from herdpy.service import Service, plain


class TargetConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``target``."""

    members: tuple[str, ...] = ()
    """Services that are started with it and stopped with it. While it runs, each of them may be stopped and started by
    itself."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        for index, name in enumerate(self.members):
            if problem := name_problem(name):
                yield f"members[{index}]", f"{name!r}: {problem}"


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service without a process."""
    configuration: TargetConfiguration = declaration.configuration
    members = configuration.members
    return (
        as_service(
            declaration,
            documentation=f"The group of {', '.join(members)}." if members else "A state that others can require.",
            members=members,
            facts=(
                plain("type", "type", declaration.type),
                plain("members", "members", members),
                plain("source", "source", declaration.source),
            ),
        ),
    )


TYPE = ServiceType(
    name="target",
    configuration=TargetConfiguration,
    services=services,
    documentation="A name for a group of services: started and stopped together.",
)
