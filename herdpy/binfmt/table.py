"""The kernel's table of binary formats: what is in it, adding to it, removing from it.

Each user namespace has a table of its own (since Linux 6.7). Everything here is done at once but for the opening of an
interpreter, which may lie on a file system that is slow: call it in a thread.
"""

import contextlib
import errno
import os

import msgspec

from herdpy.binfmt.entry import Entry, Found, parse

DIRECTORY = "/proc/sys/fs/binfmt_misc"
BESIDE = ".new"
"""What is added to the name of an entry that takes the place of another one."""


class Refused(Exception):  # noqa: N818 - it says what became of it
    """The table did not take something; ``str()`` says what and why, in one sentence."""


class Identity(msgspec.Struct, frozen=True):
    """Which file an interpreter is."""

    device: int
    inode: int
    modified: int
    """Nanoseconds since the epoch, as is the next."""
    changed: int


def find(name: str) -> Found | None:
    """The entry of this name, if there is one.

    Raises:
        OSError: the table cannot be read.
    """
    try:
        with open(os.path.join(DIRECTORY, name), encoding="utf-8", errors="replace") as file:
            return parse(name, file.read())
    except FileNotFoundError:
        return None


def names() -> list[str]:
    """Of all entries, sorted.

    Raises:
        OSError: the table cannot be read.
    """
    return sorted(set(os.listdir(DIRECTORY)) - {"register", "status"})


def add(entry: Entry) -> bool:
    """See that an entry is in the table, made by the interpreter that is on disk now.

    Returns:
        Whether it was added; False when the same one was there, which is ours from now on.

    Raises:
        Refused: the kernel does not take it, or there is another one of its name.
    """
    found = _read(entry.name)
    if found is None:
        _register(entry)
        return True
    if found.entry != entry:
        raise Refused(
            f"the table has an entry {entry.name} already, for {found.entry.interpreter or 'something else'} "
            f"(flags {found.entry.flags or 'none'}); remove it: echo -1 > {DIRECTORY}/{entry.name}"
            f" (for Debian's: update-binfmts --disable {entry.name})"
        )
    if not found.enabled:
        with contextlib.suppress(FileNotFoundError):
            _write(entry.name, b"1")
    if is_older(entry):
        renew(entry)
    return False


def remove(entry: Entry) -> bool:
    """Remove an entry, unless somebody has put another one in its place.

    Returns:
        Whether it was there.

    Raises:
        Refused: the kernel does not let us.
    """
    _clear(entry.name + BESIDE)
    found = _read(entry.name)
    if found is None or found.entry != entry:
        return False
    _clear(entry.name)
    return True


def renew(entry: Entry) -> None:
    """Put an entry in the place of the one of its name, with no moment in which there is neither.

    Of two that match, the kernel takes the one that was added last. When the kernel refuses the new one, the old one
    stays.

    Raises:
        Refused: the kernel does not take it.
    """
    beside = msgspec.structs.replace(entry, name=entry.name + BESIDE)
    _clear(beside.name)
    _register(beside)
    _clear(entry.name)
    _register(entry)
    _clear(beside.name)


def identity(path: str) -> Identity | None:
    """Which file is at a path; None when there is none."""
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return Identity(seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns)


def is_older(entry: Entry) -> bool:
    """Whether the interpreter has changed since the entry was added: with flag F, programs are run by the old one."""
    try:
        made = os.stat(os.path.join(DIRECTORY, entry.name)).st_mtime_ns
        return os.stat(entry.interpreter).st_ctime_ns > made
    except OSError:
        return False


def _read(name: str) -> Found | None:
    try:
        return find(name)
    except OSError as error:
        raise Refused(f"cannot read {DIRECTORY}/{name}: {error.strerror}") from None


def _register(entry: Entry) -> None:
    try:
        register = os.open(os.path.join(DIRECTORY, "register"), os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(cannot_write("register", error)) from None
    try:
        os.write(register, entry.line)
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                problem = f"there is no {entry.interpreter}"
            case errno.EACCES:
                problem = f"{entry.interpreter} is not executable"
            case errno.EINVAL:
                problem = f"the kernel cannot make out: {entry.line.decode()}"
            case _:
                problem = error.strerror or str(error)
        raise Refused(f"cannot register {entry.name}: {problem}") from None
    finally:
        os.close(register)


def _clear(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _write(name, b"-1")


def _write(name: str, word: bytes) -> None:
    try:
        file = os.open(os.path.join(DIRECTORY, name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, word)
        finally:
            os.close(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused(cannot_write(name, error)) from None


def cannot_write(name: str, error: OSError) -> str:
    """Why a file of the table cannot be written, and how to mend that."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            advice = "; only root can change the table; let root's herdpy run it"
        case errno.EROFS:
            advice = f"; make it writable: mount -o remount,bind,rw {DIRECTORY} (of a container, its host's root can)"
        case _:
            advice = ""
    return f"cannot write {DIRECTORY}/{name}: {error.strerror}{advice}"
