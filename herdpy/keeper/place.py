"""What the keeper needs on disk before it begins: its directories, the lock on them, the file that tells its PID."""

from __future__ import annotations

import errno
import fcntl
import os

from herdpy.keeper import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

STATE_MODE = 0o711
"""Of root's state directory: a guest's own user must reach machines/NAME below it, but not see what else there is."""

PATIENCE = 2.0
"""Seconds that a lock is waited for whose owner has ended."""


class Refusal(Exception):  # noqa: N818 - it is the answer to someone, not a mistake in the program
    """Why the keeper does not begin; ``str()`` is one line for the person who started it."""


class Occupied(Refusal):
    """There is a keeper already; ``pid`` is its PID, or None while that is not known yet."""

    def __init__(self, words: str, pid: int | None) -> None:
        super().__init__(words)
        self.pid = pid


def make_directory(path: str, mode: int) -> None:
    """Make a directory and its parents; one that is there stays as it is.

    Raises:
        Refusal: when it cannot be made.
    """
    umask = os.umask(0o022)
    try:
        os.makedirs(os.path.dirname(path) or "/", exist_ok=True)
        os.umask(0)
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise Refusal(f"cannot make the directory {path}: it is there and is none") from None
    except OSError as error:
        raise Refusal(f"cannot make the directory {path}: {error.strerror}") from None
    finally:
        os.umask(umask)


class Lock:
    """The lock that lets a state directory have one keeper (flock(2) on ``lock`` in it).

    The file holds our PID for whoever wonders. It is edited in place, for the lock is on the file, not on its name.
    """

    def __init__(self, state_directory: str, *, is_heir: bool = False, inherited: int | None = None) -> None:
        """Take it; wait only for what a killed keeper has left: its own end, and a child that has yet to come to its
        exec.

        Args:
            is_heir: whether we know that our keeper was killed.
            inherited: the locked file's descriptor, of a keeper that has executed itself anew.

        Raises:
            Refusal: when another keeper has it, or when there can be none.
        """
        self.path = os.path.join(state_directory, "lock")
        self._mode = STATE_MODE if os.geteuid() == 0 else 0o700
        if inherited is not None:
            self._file = inherited
            return
        try:
            try:
                self._file = self._take()
            except BlockingIOError:
                if not is_heir and not _has_ended(self.path):
                    raise
                self._file = self._take(patience=PATIENCE)
        except BlockingIOError:
            word = _word(self.path)
            raise Occupied(
                f"another herdpy runs in {state_directory}: "
                f"{f'PID {word}' if word.isdecimal() else 'its PID is not known yet'}; "
                "stop it first, or give this one a state directory of its own",
                int(word) if word.isdecimal() else None,
            ) from None
        except OSError as error:
            raise Refusal(f"cannot lock {self.path}: {error.strerror}") from None
        self._sign()

    def keep(self) -> str | None:
        """See that it still is on what its path leads to; take it anew where the file, or its directory, is gone.

        Returns:
            Why we do not have it, in words.
        """
        try:
            if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                return None
        except OSError:
            pass  # it is gone, or its directory is
        try:
            make_directory(os.path.dirname(self.path), self._mode)
            file = self._take()
        except BlockingIOError:
            return "another herdpy has its directory"
        except Refusal as refusal:
            return str(refusal)
        except OSError as error:
            return f"cannot lock {self.path}: {error.strerror}"
        os.dup2(file, self._file, inheritable=False)
        os.close(file)
        self._sign()
        return None

    def _sign(self) -> None:
        words = b"%d\n" % os.getpid()
        try:
            os.pwrite(self._file, words, 0)
            os.ftruncate(self._file, len(words))
        except OSError:
            return  # a full or read-only disk: the lock is what counts

    def _take(self, patience: float = 0.0) -> int:
        while True:
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if patience:
                    _wait_for_lock(file, patience)
                else:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except FileNotFoundError:
                pass  # its last owner has just removed it: there will be a new one
            except OSError:
                os.close(file)
                raise
            os.close(file)

    @property
    def descriptor(self) -> int:
        """The locked file's."""
        return self._file

    def release(self) -> None:
        """Remove the file, then give up the lock: in the other order someone might have it by then."""
        _remove(self.path)
        os.close(self._file)


def _wait_for_lock(file: int, patience: float) -> None:
    """Wait for a lock, for so many seconds.

    Raises:
        BlockingIOError: it cannot be had.
    """

    def give_up(_number: int, _frame: object) -> None:
        raise BlockingIOError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _has_ended(path: str) -> bool:
    """Tell whether there is no process any more whose PID is in the file."""
    word = _word(path)
    if not word.isdecimal():
        return False
    try:
        pidfd = os.pidfd_open(int(word))
    except ProcessLookupError:
        return True
    except OSError:
        return False
    os.close(pidfd)
    seen = proc.stat(int(word))
    return seen is None or seen.has_ended()


def _word(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(20).strip()
    except OSError:
        return ""


class PidFile:
    """The file that appears once the supervisor is ready (``-``: a line on stdout; None: none)."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._is_there = False

    def check(self) -> None:
        """See that it can be written, before anything is begun.

        Raises:
            Refusal: it cannot.
        """
        if self.path in (None, "-"):
            return
        if os.path.isdir(self.path):
            raise Refusal(f"cannot write the PID file {self.path}: it is a directory")
        try:
            os.close(_make(f"{self.path}.new"))
        except OSError as error:
            raise Refusal(f"cannot write the PID file {self.path}: {error.strerror}") from None
        _remove(f"{self.path}.new")

    def write(self) -> str | None:
        """Write it, once; return what went wrong in one line."""
        if self.path is None or self._is_there:
            return None
        self._is_there = True
        line = b"%d\n" % os.getpid()
        if self.path == "-":
            try:
                os.write(1, line)
            except OSError as error:
                return f"cannot write our PID to stdout: {error.strerror}"
            return None
        beside = f"{self.path}.new"
        try:
            file = _make(beside)
            try:
                os.write(file, line)  # it need not outlast the machine: no fsync, which may take long
            finally:
                os.close(file)
            os.rename(beside, self.path)
        except OSError as error:
            self._is_there = False
            return f"cannot write the PID file {self.path}: {error.strerror}"
        return None

    @property
    def is_there(self) -> bool:
        """Whether we have written it."""
        return self._is_there

    def keep(self) -> None:
        """We have written it before we executed ourselves anew."""
        self._is_there = True

    def inherit(self) -> None:
        """Be the one whose PID is told, in the place of a keeper that was killed, if there is a file that tells it."""
        if self.path == "-":
            self._is_there = True  # who read it has read it
        elif self.path is not None and os.path.exists(self.path):
            self.write()

    def remove(self) -> None:
        """Remove it, if we wrote it."""
        if self._is_there and self.path not in (None, "-"):
            _remove(self.path)


def _make(path: str) -> int:
    """Make a file anew; return its descriptor.

    Raises:
        OSError: it cannot be made.
    """
    _remove(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def _remove(path: str | None) -> None:
    if path is not None:
        try:
            os.unlink(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                return  # a name left behind harms nobody: whoever comes next replaces it


def own_descriptors() -> int:
    """Make sure that 0, 1 and 2 are open and that no other descriptor that we inherited reaches a child.

    Returns:
        A descriptor of /dev/null.
    """
    while (null := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) < 3:
        os.set_inheritable(null, True)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the one that listed them
    return null
