"""The service types. Each is a module that defines ``TYPE``, imported when a declaration first names it."""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from herdpy.catalogue.common import ServiceType

MODULES = {
    "host": "herdpy.catalogue.host",
    "libvirt": "herdpy.catalogue.libvirt",
    "mount": "herdpy.catalogue.mount",
    "maker": "herdpy.catalogue.maker",
    "hurd-vm": "herdpy.catalogue.hurd_vm",
    "inetd": "herdpy.catalogue.inetd",
    "process": "herdpy.catalogue.process",
    "qemu-binfmt": "herdpy.catalogue.qemu_binfmt",
    "qemu-guest-agent": "herdpy.catalogue.qemu_guest_agent",
    "target": "herdpy.catalogue.target",
    "timer": "herdpy.catalogue.timer",
    "virtlog": "herdpy.catalogue.virtlog",
    "virtual-build-machine": "herdpy.catalogue.build_vm",
}
"""The module of each type. Adding a service type is adding its module and its line here."""


class Catalogue(Mapping[str, "ServiceType"]):
    """Service types by name; looking one up imports its module."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def __getitem__(self, name: str) -> "ServiceType":
        service_type: ServiceType = importlib.import_module(self._modules[name]).TYPE
        return service_type

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


TYPES = Catalogue(MODULES)

ALWAYS = {
    name: f'{{"name":"{name}","source":"","type":"maker","configuration":{{"makes":"{name}"}}}}'
    for name in ("transient", "timer")
}
"""Declarations (``Service.declaration``) of services that are there for whoever asks for them, by their names, unless
others have these names. They cost nothing until then."""
