"""What a guest is sent: a list of files with their sizes and modes, then their bytes.

The form is that of Guix's secret service (the module ``(gnu build secret-service)`` of Guix)::

    (secrets (version 0) (files (("/etc/ssh/ssh_host_ed25519_key" 399 33152) ...)))

and right after the closing parenthesis, with nothing between, the contents in the order of the list. Names begin with
a slash: they are what follows the root directory in the file's name on the host, sorted by code point. The mode is the
whole of ``st_mode`` in decimal. In names only ``"`` and backslash are escaped, which every reader of S-expressions
understands, a shell script in a guest too.
"""

import os
import stat

from herdpy.service import StartFailure
from herdpy.threads import in_thread

LARGEST = 1 << 30
"""Bytes of the whole message; what is beyond, and"""
LONGEST_LIST = 1 << 20
"""what has a longer list, the guest's end that is shipped (herdpy/qemu/childhurd/secret-service) refuses."""

_CHUNK = 1 << 20

UNFINISHED = ".herdpy-"
"""What begins with this, right under the root, is a key in the making, never sent."""


def unheard() -> None:
    """What a readiness step calls when the guest has answered, unless it is given something else."""


def payload(root: str) -> bytes:
    """The message that gives a guest every regular file below ``root``; without such a directory the list is empty.

    As in Guix, a symbolic link to a file counts as that file, and links to directories are not followed. What is
    neither (sockets, devices, links that lead nowhere) is left out.

    Raises:
        OSError: a directory or file cannot be read.
        ValueError: ``root`` is the host's own root directory, or holds too much.
    """
    if os.path.realpath(root) == "/":
        raise ValueError("the host's root directory is not a directory of secrets")
    names = sorted(files_below(root))
    _check_size(root, names)
    heads: list[bytes] = []
    contents: list[bytes] = []
    room = LARGEST
    for name in names:
        try:
            # O_NONBLOCK: a FIFO must not make us wait for its writer.
            descriptor = os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            if os.path.isfile(f"{root}/{name}"):
                raise
            continue
        with open(descriptor, "rb") as file:
            seen = os.fstat(descriptor)
            if not stat.S_ISREG(seen.st_mode):
                continue
            # The size is that of what was read: the file may be growing, or one of /proc's, which tell none.
            try:
                content = file.read(seen.st_size + 1)
                while len(content) <= room and (more := file.read(_CHUNK)):
                    content += more
            except OSError as error:
                # read(2) knows no name.
                raise OSError(error.errno, error.strerror, f"{root}/{name}") from None
        room -= len(content)
        if room < 0:
            raise ValueError(f"its files are more than {LARGEST >> 20} MiB, with {name}")
        heads.append(_head(name, len(content), seen.st_mode))
        contents.append(content)
    list_of_files = b"(secrets (version 0) (files (%s)))" % b" ".join(heads)
    if len(list_of_files) > LONGEST_LIST:
        raise ValueError(f"the list of its files is {len(list_of_files)} bytes, and may be {LONGEST_LIST}")
    if len(list_of_files) > room:
        raise ValueError(f"its files are more than {LARGEST >> 20} MiB with the list of them")
    return list_of_files + b"".join(contents)


def _head(name: str, size: int, mode: int) -> bytes:
    escaped = os.fsencode(name).replace(b"\\", rb"\\").replace(b'"', rb"\"")
    return b'("/%s" %d %d)' % (escaped, size, mode)


def _check_size(root: str, names: list[str]) -> None:
    """See that it is not too much, before any of it is read.

    Raises:
        ValueError: it is.
    """
    sizes = {name: seen.st_size for name in names if (seen := _seen(f"{root}/{name}")) and stat.S_ISREG(seen.st_mode)}
    total = sum(sizes.values())
    if total > LARGEST:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"its files are {total >> 20} MiB, and may be {LARGEST >> 20}; the largest is {largest}"
            f" ({sizes[largest] >> 20} MiB)"
        )
    # What is too long even without sizes and modes is not worth reading.
    length = sum(len(os.fsencode(name)) for name in sizes)
    if length > LONGEST_LIST:
        raise ValueError(f"the names of its {len(sizes)} files are {length} bytes, and may be {LONGEST_LIST}")


def _seen(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


async def read_payload(root: str) -> bytes:
    """:func:`payload` in a thread, for a service that is being started.

    Raises:
        StartFailure: it cannot be read.
    """
    try:
        return await in_thread(payload, root)
    except OSError as error:
        raise StartFailure(
            f"cannot read the guest's secrets: {error.strerror}: {error.filename}; check who may read {root}"
        ) from None
    except ValueError as error:
        raise StartFailure(f"cannot send {root} to the guest: {error}; change that, or secret-root") from None


def files_below(root: str) -> list[str]:
    """Everything below ``root`` but directories and what is in the making, by its path from there.

    Raises:
        OSError: a directory cannot be read.
    """

    def fail(error: OSError) -> None:
        if not (isinstance(error, FileNotFoundError) and error.filename == root):
            raise error

    names = []
    for directory, subdirectories, files in os.walk(root, onerror=fail):
        inside = os.path.relpath(directory, root)
        if inside == ".":
            subdirectories[:] = [name for name in subdirectories if not name.startswith(UNFINISHED)]
            names += files
        else:
            names += [f"{inside}/{name}" for name in files]
    return names
