"""Functions of the C library that Python's standard library lacks.

ctypes takes 6 ms and 1 MiB to import; its C half, which is all that is used here, nothing to speak of.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_found: dict[str, Callable[..., int]] = {}
"""Functions by their names: each takes two classes, which would be garbage after each call."""
_arrays: dict[tuple[str, int], Callable[..., Any]] = {}
"""Types of arrays by their items' type, as ctypes names it, and their length; for the same reason."""


def has(name: str) -> bool:
    """Tell whether there is such a function, and a way to call it."""
    try:
        _find(name)
    except (ImportError, AttributeError, OSError):
        return False
    return True


def room(size: int) -> Any:
    """Return so many bytes, all zero, for a function to write to."""
    return _array("B", size)()


def strings(words: Iterable[bytes]) -> Any:
    """Return pointers to strings with a null pointer after them, as a program's arguments and environment are.

    Raises:
        ValueError: a word holds a NUL byte.
    """
    found = list(words)
    if any(b"\0" in word for word in found):
        raise ValueError("embedded null byte")
    return _array("z", 1 << len(found).bit_length())(*found)  # what is not given is zero


def call(name: str, *arguments: Any) -> int:
    """Call a function that takes ints and pointers, and returns an int that is negative when it failed.

    Args:
        arguments: ints, bytes, and what :func:`room` and :func:`strings` return.

    Raises:
        OSError: it failed; ENOSYS when there is no such function, or no way to call it.
    """
    try:
        import _ctypes

        function = _found.get(name) or _find(name)
    except (ImportError, AttributeError, OSError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name) from None
    returned = function(*arguments)
    if returned < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return returned


def _find(name: str) -> Callable[..., int]:
    import _ctypes

    class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "i"

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        _restype_ = Int

    found: Callable[..., int] = Function(_ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), name))  # type: ignore[arg-type]
    _found[name] = found
    return found


def _array(item: str, length: int) -> Callable[..., Any]:
    found = _arrays.get((item, length))
    if found is None:
        import _ctypes

        class Item(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = item

        found = _arrays[item, length] = Item * length
    return found
