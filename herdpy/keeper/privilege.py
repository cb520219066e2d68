"""What a process may do beyond its user's rights: prctl(2) and capset(2), which Python's standard library lacks."""

from __future__ import annotations

import os
from struct import pack

from herdpy.keeper.libc import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# <linux/prctl.h>
_SET_KEEPCAPS = 8
_SET_CHILD_SUBREAPER = 36
_SET_NO_NEW_PRIVS = 38
_CAP_AMBIENT = 47
_CAP_AMBIENT_RAISE = 2
_CAP_AMBIENT_CLEAR_ALL = 4

# capset(2): version 3 has two words of each set, and PID 0 means ourselves.
_HEADER = pack("=Ii", 0x20080522, 0)


def become_subreaper() -> bool:
    """Let the orphans of our descendants come to us rather than to init (PR_SET_CHILD_SUBREAPER).

    Returns:
        Whether it could be done; PID 1 needs it not.
    """
    try:
        _prctl(_SET_CHILD_SUBREAPER, 1)
    except OSError:
        return False
    return True


def keep_capabilities() -> None:
    """Keep the permitted capabilities when the user IDs cease to be root's, until the next exec (PR_SET_KEEPCAPS).

    Raises:
        OSError: there is no prctl.
    """
    _prctl(_SET_KEEPCAPS, 1)


def set_capabilities(numbers: Sequence[int]) -> None:
    """Let the program that we are about to execute have these capabilities, whoever it runs as (capabilities(7)).

    The ambient set becomes exactly these, and so does the inheritable one, without which there is no ambient. An
    ordinary user's permitted and effective sets become these, too: nothing else is left to take them from. Root's stay:
    exec would give it all of them again, and until then we need them to find the program.

    Raises:
        OSError: EPERM when one is not ours to give, EINVAL when this kernel has no such capability.
    """
    wanted = 0
    for number in numbers:
        wanted |= 1 << number
    permitted = effective = wanted
    if os.geteuid() == 0:
        effective, permitted = _own()
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    call("capset", _HEADER, _words(effective, permitted, wanted))
    for number in numbers:
        _prctl(_CAP_AMBIENT, _CAP_AMBIENT_RAISE, number)


def refuse_new_privileges() -> None:
    """Let no exec, from now on and in no descendant, give what we have not: no set-user-ID (PR_SET_NO_NEW_PRIVS).

    Raises:
        OSError: there is no prctl.
    """
    _prctl(_SET_NO_NEW_PRIVS, 1)


def _own() -> tuple[int, int]:
    """Our effective and permitted capabilities (proc(5), /proc/PID/status).

    Raises:
        OSError: there is no /proc.
    """
    file = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(file, 65536).splitlines()
    finally:
        os.close(file)
    sets = {name: words for name, _, words in (line.partition(b":") for line in lines) if name.startswith(b"Cap")}
    return int(sets[b"CapEff"], 16), int(sets[b"CapPrm"], 16)


def _words(*sets: int) -> bytes:
    return pack("=6I", *(one & 0xFFFFFFFF for one in sets), *(one >> 32 for one in sets))


def _prctl(option: int, argument: int, another: int = 0) -> None:
    call("prctl", option, argument, another, 0, 0)
