"""The configuration: ``*.toml`` in layers of directories -> typed, validated declarations -> services."""

from herdpy.catalogue.common import Declaration
from herdpy.configuration.declarations import Configuration, load
from herdpy.configuration.services import Declared, declared_services, remade_services
from herdpy.mistake import Mistake, did_you_mean

__all__ = [
    "Configuration",
    "Declaration",
    "Declared",
    "Mistake",
    "declared_services",
    "did_you_mean",
    "load",
    "remade_services",
]
