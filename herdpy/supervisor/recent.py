"""The newest few of something, such as a service's last state changes."""

from typing import TypeVar

_Item = TypeVar("_Item")


def with_newest(item: _Item, items: tuple[_Item, ...], limit: int) -> tuple[_Item, ...]:
    """So many items, newest first, with a new one before the others. A tuple, since every service has four of these and
    most are empty: all empty tuples are one object."""
    return (item, *items)[:limit]
