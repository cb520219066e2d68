"""What comes of a request to start or to stop, and how it reaches whoever asked."""

from collections.abc import Callable

import msgspec
import trio

from herdpy.service import StartFailure
from herdpy.supervisor.flag import Flag


class Outcome(msgspec.Struct, frozen=True):
    """What came of a request to start or to stop."""

    done: bool
    lines: tuple[str, ...] = ()
    """Sentences for whoever asked."""
    stopped: tuple[str, ...] = ()
    """Canonical names of the services that were stopped, the one asked for first."""
    is_own: bool = True
    """Of a failed start: whether the service itself failed, not something it requires."""
    is_failure: bool = True
    """Of one that is not done: whether it failed, and was not only called off."""
