"""Reading what someone else wrote."""

import errno
import os
import stat


def content(path: str, most: int) -> bytes:
    """A regular file's content, of at most so many bytes: a FIFO would let us wait for ever, /dev/zero read for ever.

    Blocks as long as the file system does: call it in a thread.

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
