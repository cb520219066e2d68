"""Waiting for what gives no event to wait for: files and processes of other programs."""

import select
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 60
"""Seconds until a test gives up on what ought to come at once."""

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "what the test waits for", patience: float = PATIENCE) -> T:
    """Ask again and again until it is so; what is read of it may not be there yet, or just have gone.

    Returns:
        What the condition was in the end.

    Raises:
        AssertionError: it was not so for ``patience`` seconds.
    """
    end = time.monotonic() + patience
    while True:
        missing: OSError | None = None
        try:
            if found := condition():
                return found
        except (FileNotFoundError, ProcessLookupError) as error:
            missing = error
        if time.monotonic() >= end:
            raise AssertionError(f"after {patience:g} s it is not so: {what}") from missing
        select.select([], [], [], 0.01)
