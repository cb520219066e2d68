"""Functions of the C library that Python's standard library lacks.

ctypes takes 6 ms and 1 MiB to import; its C half, which is all that is used here, nothing to speak of.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_found: dict[str, Callable[..., int]] = {}
"""Functions by their names: each takes two classes, which would be garbage after each call."""


def call(name: str, *arguments: int | bytes) -> int:
    """Call a function that takes ints and pointers, and returns an int that is negative when it failed.

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
