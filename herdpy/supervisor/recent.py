"""The newest few of something, such as a service's last state changes."""

from collections.abc import Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


class Recent(list[_Item]):
    """A list, newest first, that drops its oldest beyond a limit. A deque would keep 760 bytes even when it is empty,
    and every service has four."""

    __slots__ = ("limit",)

    def __init__(self, limit: int, items: Iterable[_Item] = ()) -> None:
        super().__init__(items)
        self.limit = limit
        del self[limit:]

    def add(self, item: _Item) -> None:
        """Put a newer one before the others."""
        self.insert(0, item)
        del self[self.limit :]
