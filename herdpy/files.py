"""Files that others read: placed whole, with their mode, and durable, or not at all; and reading what others wrote.

Whatever waits for the disk here blocks: call it in a thread.
"""

import contextlib
import errno
import os
import shutil
import stat


def make_directories(path: str, mode: int) -> None:
    """Make ``path`` with ``mode``, and its missing parents with 0755, whatever the umask; what is there stays as it is.

    Raises:
        OSError: as mkdir(2) has it.
    """
    missing = []
    here = os.path.abspath(path)
    while not os.path.lexists(here):
        missing.append(here)
        here = os.path.dirname(here)
    for directory in reversed(missing):
        # 0700 first: nobody looks in before the mode is what it shall be.
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
            continue
        os.chmod(directory, mode if directory == missing[0] else 0o755)


def make_passage(path: str) -> None:
    """Make a directory of ours that the users of services may only pass through (0711; 0700 for an ordinary user), or
    see that nobody else can have put anything into it.

    Raises:
        OSError: it cannot be made, or is not ours alone to write.
    """
    is_root = os.geteuid() == 0
    try:
        os.mkdir(path, 0o700)
        if is_root:
            os.chmod(path, 0o711)  # noqa: S103 - a service's user must come by, whatever our umask
    except FileExistsError:
        seen = os.lstat(path)
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
            raise PermissionError(0, "others can write to it; remove it, herdpy makes it anew", path) from None


class Scratch:
    """A directory for files in the making, made when it is first asked for and removed at the end of the block.

    What a run that was killed has left at its place is removed first, so the place must be the caller's alone.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._made = False

    def directory(self) -> str:
        """Its path; nobody else can look into it.

        Raises:
            OSError: as mkdir(2) has it.
        """
        if not self._made:
            shutil.rmtree(self._path, ignore_errors=True)
            os.mkdir(self._path, 0o700)
            self._made = True
        return self._path

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        # Not in a thread: these are a few small files, and one who is being cancelled cannot wait.
        if self._made:
            shutil.rmtree(self._path, ignore_errors=True)


def content(path: str, most: int) -> bytes:
    """A regular file's content, of at most so many bytes: a FIFO would let us wait for ever, /dev/zero read for ever.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        read = file.read(most + 1)
    if len(read) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most // 1024} KiB", path)
    return read


def write(path: str, content: bytes, mode: int) -> None:
    """Write ``content`` to the new file ``path``, down to the disk; its mode is at no time wider than ``mode``.

    Raises:
        OSError: as open(2), write(2) and fsync(2) have it; FileExistsError when there is such a file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode & 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def add(source: str, target: str, mode: int) -> bool:
    """Give the finished file ``source`` the name ``target`` too, unless that name is taken: nothing is overwritten.

    Both must be on one file system. link(2), unlike rename(2), fails when the target exists, so that there is no moment
    between looking and doing.

    Returns:
        Whether it is ours now; False when the name was taken.

    Raises:
        OSError: as chmod(2), fsync(2) and link(2) have it.
    """
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    _sync_directory(os.path.dirname(target))
    return True


def replace(path: str, content: bytes, mode: int, *, beside: str | None = None) -> None:
    """Make ``path`` a file of this content and mode: written beside, then renamed. A file that is right is left alone.

    Args:
        beside: where it is written first, on the same file system; no other writer may use that name at the time.

    Raises:
        OSError: as open(2), write(2), fsync(2) and rename(2) have it.
    """
    try:
        with open(path, "rb") as file:
            if file.read() == content and os.fstat(file.fileno()).st_mode & 0o7777 == mode:
                return
    except FileNotFoundError:
        pass
    beside = beside or f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    write(beside, content, mode)
    os.rename(beside, path)
    _sync_directory(os.path.dirname(path))


def _sync_directory(path: str) -> None:
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
