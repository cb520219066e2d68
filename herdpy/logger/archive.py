"""What becomes of a log's rotated files: compressed one after the other, the oldest removed.

It looks at what there is rather than at what just happened, so that a run that was killed is made up for by the next.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from herdpy.keeper.message import decode
from herdpy.logger.rotation import COMPRESSIONS, PART, archives

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Compressor = tuple[Callable[[bytes], bytes], Callable[[], bytes]]

READ_SIZE = 1 << 20
DAY = 86400.0


class Refusal(Exception):  # noqa: N818 - it says what is left as it is
    """Why a file is left as it is; ``str()`` is one line."""


def run(packet: str) -> int:
    """Deal with the rotated files of one log, as the logger's packet to the keeper says; return the exit status."""
    wanted = decode(packet.encode("ascii"))
    os.umask(0o077)
    os.nice(10)
    try:
        for problem in archive(wanted["path"], wanted["keep"], wanted["keep_days"], wanted["compress"]):
            print(f"logger: {problem}", file=sys.stderr)
    except OSError as error:
        print(f"logger: cannot deal with the rotated files of {wanted['path']}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def archive(path: str, keep: int, keep_days: int | None, compress: str) -> Iterator[str]:
    """Remove what is too old or too much, compress the rest; yield what went wrong.

    Raises:
        OSError: when the directory cannot be read.
    """
    stamps = archives(path)
    _remove_parts(path)
    kept = stamps[len(stamps) - keep :] if keep < len(stamps) else stamps
    oldest = None if keep_days is None else time.time() - keep_days * DAY
    for stamp in stamps:
        for end in COMPRESSIONS.values():
            file = f"{path}.{stamp}{end}"
            try:
                is_too_old = oldest is not None and os.lstat(file).st_mtime < oldest
                if stamp not in kept or is_too_old:
                    os.unlink(file)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield f"cannot remove {file}: {error.strerror}"
    for stamp in kept:
        try:
            _compress(f"{path}.{stamp}", compress)
        except FileNotFoundError:
            continue
        except Refusal as refusal:
            yield f"cannot compress {path}.{stamp}: {refusal}; it is left as it is"
        except OSError as error:
            yield f"cannot compress {path}.{stamp}: {error.strerror}; it is left as it is"


def _remove_parts(path: str) -> None:
    """Remove what a run that was killed has left half done: there is one run at a time."""
    for end in filter(None, COMPRESSIONS.values()):
        for stamp in archives(path, (f"{end}{PART}",)):
            os.unlink(f"{path}.{stamp}{end}{PART}")


def _compress(file: str, compression: str) -> None:
    """Replace a file by its compressed self, which appears whole or not at all.

    Raises:
        FileNotFoundError: there is no such file: it is compressed already, or gone.
        Refusal, OSError: it cannot be done.
    """
    # The directory may be a service's own: what it puts there under this name must not lead us to another's file.
    reading = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        seen = os.fstat(reading)
        if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
            raise Refusal("it is no file with one name")
        for end in COMPRESSIONS.values():
            if end and os.path.lexists(file + end):
                os.unlink(file)  # all but this was done when the run before us was killed
                return
        if compression == "none":
            return
        end = COMPRESSIONS[compression]
        compressor = _COMPRESSORS[compression]()
        part = f"{file}{end}{PART}"
        writing = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _copy(reading, writing, compressor)
            os.fchown(writing, seen.st_uid, seen.st_gid)
            os.fchmod(writing, stat.S_IMODE(seen.st_mode))
            os.utime(writing, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            os.fsync(writing)
            os.rename(part, file + end)
        except BaseException:
            os.unlink(part)
            raise
        finally:
            os.close(writing)
        os.unlink(file)
    finally:
        os.close(reading)


def _copy(reading: int, writing: int, compressor: Compressor) -> None:
    compress, flush = compressor
    while chunk := os.read(reading, READ_SIZE):
        _write(writing, compress(chunk))
    _write(writing, flush())


def _write(file: int, text: bytes) -> None:
    written = 0
    while written < len(text):
        written += os.write(file, memoryview(text)[written:])


def _gzip() -> Compressor:
    import zlib

    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)  # with gzip's header
    return compressor.compress, compressor.flush


def _zstd() -> Compressor:
    """Compress with libzstd, which dpkg and the kernel's tools need anyway; Python has it from 3.14 on only.

    Raises:
        Refusal: when it is not there.
    """
    import ctypes

    class Buffer(ctypes.Structure):
        """ZSTD_inBuffer and ZSTD_outBuffer (zstd.h)."""

        _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t), ("at", ctypes.c_size_t))

    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        raise Refusal('there is no libzstd.so.1: install libzstd1, or set compress = "gzip"') from None
    library.ZSTD_createCCtx.restype = ctypes.c_void_p
    compress_stream = library.ZSTD_compressStream2
    compress_stream.restype = ctypes.c_size_t
    compress_stream.argtypes = (ctypes.c_void_p, ctypes.POINTER(Buffer), ctypes.POINTER(Buffer), ctypes.c_int)
    library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    context = library.ZSTD_createCCtx()
    if not context:
        raise Refusal("no memory for zstd")
    room = ctypes.create_string_buffer(READ_SIZE)

    def step(chunk: bytes, directive: int) -> bytes:
        given = ctypes.create_string_buffer(chunk, len(chunk))
        source = Buffer(ctypes.addressof(given), len(chunk), 0)
        made = []
        while True:
            out = Buffer(ctypes.addressof(room), READ_SIZE, 0)
            left = compress_stream(context, ctypes.byref(out), ctypes.byref(source), directive)
            if library.ZSTD_isError(left):
                raise Refusal("zstd refuses it")
            made.append(room.raw[: out.at])
            if (directive == 0 and source.at == source.size) or (directive == 2 and left == 0):
                return b"".join(made)

    # ZSTD_e_continue and ZSTD_e_end
    return lambda chunk: step(chunk, 0), lambda: step(b"", 2)


_COMPRESSORS = {"gzip": _gzip, "zstd": _zstd}
