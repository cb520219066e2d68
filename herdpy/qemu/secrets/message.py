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

import trio

from herdpy.service import StartFailure

UNFINISHED = ".herdpy-"
"""What begins with this, right under the root, is a key in the making, never sent."""


def payload(root: str) -> bytes:
    """The message that gives a guest every regular file below ``root``; without such a directory the list is empty.

    As in Guix, a symbolic link to a file counts as that file, and links to directories are not followed. What is
    neither (sockets, devices, links that lead nowhere) is left out.

    Raises:
        OSError: a directory or file cannot be read.
        ValueError: ``root`` is the host's own root directory.
    """
    if os.path.realpath(root) == "/":
        raise ValueError("the host's root directory is not a directory of secrets")
    heads, contents = [], []
    for name in sorted(files_below(root)):
        try:
            # O_NONBLOCK: a FIFO must not make us wait for its writer.
            descriptor = os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            if os.path.isfile(f"{root}/{name}"):
                raise
            continue
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                continue
            # The size is that of what was read: the file may be growing.
            try:
                content = file.read()
            except OSError as error:
                # read(2) knows no name.
                raise OSError(error.errno, error.strerror, f"{root}/{name}") from None
        escaped = os.fsencode(name).replace(b"\\", rb"\\").replace(b'"', rb"\"")
        heads.append(b'("/%s" %d %d)' % (escaped, len(content), mode))
        contents.append(content)
    return b"(secrets (version 0) (files (%s)))" % b" ".join(heads) + b"".join(contents)


async def read_payload(root: str) -> bytes:
    """:func:`payload` in a thread, for a service that is being started.

    Raises:
        StartFailure: it cannot be read.
    """
    try:
        return await trio.to_thread.run_sync(payload, root)
    except OSError as error:
        raise StartFailure(
            f"cannot read the guest's secrets: {error.strerror}: {error.filename}; check who may read {root}"
        ) from None
    except ValueError as error:
        raise StartFailure(f"cannot send {root} to the guest: {error}; set another directory") from None


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
