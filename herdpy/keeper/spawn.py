"""Everything between fork and exec.

A bare child, one that is the keeper's own user and has nothing of its own that outlasts a moment, goes by vfork
(``posix_spawn``): 0.5 ms however large we are. What vfork cannot set in the child (umask, directory, the descriptor
limit) we take on ourselves for that moment: we have one thread, and it is suspended until the exec. Any other goes by
fork: a keeper that gave up root for a moment could be signalled by the other user, and a limit, a nice value or an OOM
score once changed cannot always be changed back. Its errors come back through a pipe that the exec closes: nobody
waits.

What a child of a fork takes on, in this order, and why:

1. what takes root's rights: the OOM score, hard limits raised, the nice value;
2. supplementary groups, group, user, keeping the permitted capabilities if it is to have some;
3. those capabilities, since a change of user IDs has cleared the effective and the ambient ones;
4. umask and directory, as the user and with the capabilities that the program will have;
5. no new privileges, since it cannot be undone, and the limits, since they bind us, too: a small address space is none
   to run Python in. The number of processes is an exception: it is set before the user, because the kernel compares
   the two when the user changes, for the exec to fail if there are too many (setrlimit(2), execve(2): EAGAIN).

Each child begins with: a session of its own (and so a process group), no signal blocked or ignored, /dev/null as its
stdin, its output as stdout and stderr (or a connection as stdin and stdout, as inetd has it), no other descriptor but
those it was given (all of ours are close-on-exec), and the limits that the keeper itself was started with, but for
those it was given.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource

from herdpy.keeper import posix_spawn, privilege
from herdpy.kernel import LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")
else:
    import _signal as signal  # signal imports enum: 5 ms and 0.8 MiB for names we do not use

SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


_NO_MEMORY = b"limits\0%d\0" % errno.ENOMEM
"""What a child says that its own limits leave no memory to say more."""


class SpawnFailure(Exception):  # noqa: N818 - it names what happened to the child, not a mistake in the program
    """A child that did not come to its exec, or an exec that failed.

    Attributes:
        errno: what the kernel said.
        stage: what was being done: ``output``, ``fork``, ``descriptors``, ``oom``, ``limits``, ``nice``, ``groups``,
            ``gid``, ``uid``, ``capabilities``, ``directory``, ``no-new-privileges``, ``exec``, or ``interpreter`` when
            the program is there but what its first line names is not.
        path: what it was done on (a path, a number, a limit's name), or an empty string.
    """

    def __init__(self, number: int, stage: str, path: str) -> None:
        super().__init__(f"{stage} {path}: {os.strerror(number)}")
        self.errno = number
        self.stage = stage
        self.path = path


class NotBornThere(Exception):  # noqa: N818 - as above
    """A child that could not be born in a cgroup; by another way it may.

    Attributes:
        errno: what the kernel said.
    """

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


class Child:
    """What a child is to be. None means: as the keeper is.

    Attributes:
        limits: (name as in ``herdpy.kernel.LIMITS``, soft, hard) of each resource limit of its own.
        nice: the nice value itself, not a difference.
        capabilities: the numbers of those that it has in spite of its user (the ambient ones); empty means none.
        stdin: the descriptor that is its stdin and stdout, or None: /dev/null, and where its output goes.
        listening: (descriptor, name) of each that it gets from 3 on, as sd_listen_fds(3) says.
        pid_variable: the name of a variable that tells it its own PID, as WATCHDOG_PID does (sd_watchdog_enabled(3)).
    """

    __slots__ = (
        "capabilities",
        "command",
        "directory",
        "environment",
        "gid",
        "groups",
        "limits",
        "listening",
        "nice",
        "no_new_privileges",
        "oom_score_adjust",
        "pid_variable",
        "stdin",
        "uid",
        "umask",
    )

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        *,
        directory: str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        groups: Sequence[int] | None = None,
        umask: int | None = None,
        limits: Sequence[tuple[str, int, int]] = (),
        nice: int | None = None,
        oom_score_adjust: int | None = None,
        capabilities: Sequence[int] | None = None,
        no_new_privileges: bool = False,
        pid_variable: str | None = None,
    ) -> None:
        self.command = command
        self.environment = environment
        self.directory = directory
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.umask = umask
        self.limits = limits
        self.nice = nice
        self.oom_score_adjust = oom_score_adjust
        self.capabilities = capabilities
        self.no_new_privileges = no_new_privileges
        self.pid_variable = pid_variable
        self.stdin: int | None = None
        self.listening: Sequence[tuple[int, str]] = ()

    def is_bare(self) -> bool:
        """Tell whether it has our own user, group and supplementary groups, and nothing that only a fork can give.

        An environment that says the PID is such a thing, and listening descriptors bring one (LISTEN_PID).
        """
        return (
            not self.limits
            and self.nice is None
            and self.oom_score_adjust is None
            and self.capabilities is None
            and not self.no_new_privileges
            and not self.listening
            and self.pid_variable is None
            and (self.uid is None or (self.uid,) * 3 == os.getresuid())
            and (self.gid is None or (self.gid,) * 3 == os.getresgid())
            and (self.groups is None or set(self.groups) == set(os.getgroups()))
        )


class Spawner:
    """What spawning needs: /dev/null, a low descriptor to lend, and two limits on open descriptors.

    Ours is raised as high as it may be (getrlimit(2), RLIMIT_NOFILE); the children's is the one we were started with.
    """

    def __init__(self, null: int, low: tuple[int, int, int] | None = None, open_files: int | None = None) -> None:
        """Get ready.

        Args:
            null: a descriptor of /dev/null.
            low: what :attr:`descriptors` was before we executed ourselves anew.
            open_files: the children's soft limit, if it is not ours of this moment.
        """
        self._null = null
        # posix_spawn_file_actions_adddup2(3) refuses a descriptor beyond the limit of the moment, which is the
        # children's: so their output is put onto one from our beginning, when numbers were low.
        if low is None:
            self._low, self._low_stdin = os.dup(null), os.dup(null)
        else:
            os.close(null)
            self._null, self._low, self._low_stdin = low
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._children = (soft if open_files is None else open_files, hard)
        self._ours = (self._children[1], self._children[1])
        self._restore_limit()

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """Those of its own: /dev/null, and two that are low."""
        return self._null, self._low, self._low_stdin

    def spawn(
        self,
        child: Child,
        output: int | None,
        fork: Callable[[], int] | None = None,
        *,
        cgroup: str | None = None,
    ) -> tuple[int, int | None]:
        """Start ``child`` with ``output`` as its stdout and stderr (None: /dev/null).

        Args:
            fork: forks in a way of its own; None means by vfork where that will do, else as usual.
            cgroup: where a bare child is to be born (:func:`herdpy.keeper.posix_spawn.can_spawn_into`).

        Returns:
            Its PID, and None when its program runs already; otherwise a descriptor to watch: at its end of file the
            program runs, and what it says before is for :func:`failure`.

        Raises:
            SpawnFailure: when there is no child.
            NotBornThere: when there is none, and perhaps only since it was to be born in ``cgroup``.
        """
        if child.stdin is not None:
            # The open file is the child's from now on. Who accepted the connection had it nonblocking for itself.
            try:
                os.set_blocking(child.stdin, True)
            except OSError as error:  # it can only be named, not read (open(2), O_PATH)
                raise SpawnFailure(error.errno or errno.EIO, "descriptors", "") from None
        output = self._null if output is None else output
        if fork is None and child.is_bare():
            return self._by_vfork(child, output, cgroup), None
        return self._by_fork(child, output, fork or os.fork)

    def spawn_companion(self, command: list[str], environment: Mapping[str, str], output: int, line: int) -> int:
        """Start the supervisor or the logger, with its end of the line as descriptor 3; return its PID.

        It keeps our limit on descriptors: it holds as many as we do.

        Raises:
            SpawnFailure: when its program cannot be executed.
        """
        actions = [*self._standard(output, None), (os.POSIX_SPAWN_DUP2, line, 3)]
        return _look_up(command[0], environment, lambda path: _posix_spawn(path, command, environment, actions))

    def _standard(self, output: int, stdin: int | None) -> list[tuple[int, int, int]]:
        # dup2, not open: while the limit is the children's, a new descriptor may be beyond it.
        return [
            (os.POSIX_SPAWN_DUP2, self._null if stdin is None else stdin, 0),
            (os.POSIX_SPAWN_DUP2, output if stdin is None else stdin, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]

    def _by_vfork(self, child: Child, output: int, cgroup: str | None) -> int:
        stdin = None if child.stdin is None else os.dup2(child.stdin, self._low_stdin, inheritable=False)
        actions = self._standard(os.dup2(output, self._low, inheritable=False), stdin)
        directory = None if child.directory == "/" else child.directory  # that is where we are
        umask = None if child.umask is None else os.umask(child.umask)
        try:
            if directory is not None:
                try:
                    os.chdir(directory)
                except OSError as error:
                    raise SpawnFailure(error.errno or errno.EIO, "directory", directory) from None
            birthplace = None if cgroup is None else _birthplace(cgroup)
            try:
                execute = self._execute
                return _look_up(
                    child.command[0], child.environment, lambda path: execute(path, child, actions, birthplace)
                )
            finally:
                if birthplace is not None:
                    os.close(birthplace)
        finally:
            if directory is not None:
                os.chdir("/")
            if umask is not None:
                os.umask(umask)
            os.dup2(self._null, self._low, inheritable=False)  # or the pipe would never come to its end
            if stdin is not None:
                os.dup2(self._null, self._low_stdin, inheritable=False)

    def _execute(self, path: str, child: Child, actions: list[tuple[int, int, int]], birthplace: int | None) -> int:
        self._lend_limit()
        try:
            if birthplace is None:
                return _posix_spawn(path, child.command, child.environment, actions)
            descriptors = [(ours, theirs) for _, ours, theirs in actions]
            return posix_spawn.spawn(path, child.command, child.environment, descriptors, birthplace)
        except OSError as error:
            if birthplace is None or error.errno in posix_spawn.OTHERS_TOO:
                raise
            raise NotBornThere(error.errno or errno.EIO) from None
        finally:
            self._restore_limit()

    def _by_fork(self, child: Child, output: int, fork: Callable[[], int]) -> tuple[int, int]:
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise SpawnFailure(error.errno or errno.EIO, "fork", "") from None
        # What can be found out here is not left to the child, for which each page that it touches has to be copied.
        caught = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_DFL]  # or ignored
        # A signal that came between fork and exec would run our handlers in the child, and wake us up in its stead.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = fork()
            if pid == 0:
                self._become(child, output, writing, caught)
        except OSError as error:
            os.close(reading)
            raise SpawnFailure(error.errno or errno.EIO, "fork", "") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(writing)
        return pid, reading

    def _become(self, child: Child, output: int, errors: int, caught: Sequence[int]) -> None:
        """Be the child: never returns, whatever happens.

        Args:
            errors: where a failure is told.
            caught: the signals that are not as they are by default.
        """
        stage, path = "exec", child.command[0]
        environment = child.environment
        try:
            os.setsid()
            os.dup2(self._null if child.stdin is None else child.stdin, 0)
            os.dup2(output if child.stdin is None else child.stdin, 1)
            os.dup2(output, 2)
            if child.listening:
                stage, path = "descriptors", ""
                errors = _pass_on([descriptor for descriptor, _ in child.listening], errors)
                environment = {
                    **environment,
                    "LISTEN_PID": str(os.getpid()),
                    "LISTEN_FDS": str(len(child.listening)),
                    "LISTEN_FDNAMES": ":".join(name for _, name in child.listening),
                }
            if child.pid_variable is not None:
                environment = {**environment, child.pid_variable: str(os.getpid())}
            if child.oom_score_adjust is not None:
                stage, path = "oom", str(child.oom_score_adjust)
                _set_oom_score_adjust(child.oom_score_adjust)
            for name, soft, hard in child.limits:
                stage, path = "limits", name
                if name == "nproc":
                    _limit(LIMITS[name], soft, hard)
                else:
                    _raise_hard_limit(LIMITS[name], hard)
            if child.nice is not None:
                stage, path = "nice", str(child.nice)
                os.setpriority(os.PRIO_PROCESS, 0, child.nice)
            if child.capabilities is not None:
                stage, path = "capabilities", ""
                privilege.keep_capabilities()
            if child.groups is not None:
                stage, path = "groups", ""
                os.setgroups(child.groups)
            if child.gid is not None:
                stage, path = "gid", str(child.gid)
                os.setresgid(child.gid, child.gid, child.gid)
            if child.uid is not None:
                stage, path = "uid", str(child.uid)
                os.setresuid(child.uid, child.uid, child.uid)
            if child.capabilities is not None:
                stage, path = "capabilities", ""
                privilege.set_capabilities(child.capabilities)
            if child.umask is not None:
                os.umask(child.umask)
            if child.directory is not None:  # after setresuid: it is the user who must be allowed in
                stage, path = "directory", child.directory
                os.chdir(child.directory)
            signal.set_wakeup_fd(-1)
            for number in caught:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if child.no_new_privileges:
                stage, path = "no-new-privileges", ""
                privilege.refuse_new_privileges()
            if not child.limits or not any(name == "nofile" for name, _, _ in child.limits):
                self._lend_limit()
            for name, soft, hard in child.limits:
                stage, path = "limits", name
                _limit(LIMITS[name], soft, hard)
            stage, path = "exec", child.command[0]
            _look_up(path, environment, lambda found: os.execve(found, child.command, environment))
        except SpawnFailure as error:
            os.write(errors, b"%b\0%d\0%b" % (error.stage.encode(), error.errno, os.fsencode(error.path)))
        except OSError as error:
            os.write(errors, b"%b\0%d\0%b" % (stage.encode(), error.errno or errno.EIO, os.fsencode(path)))
        except MemoryError:
            os.write(errors, _NO_MEMORY)
        finally:
            os._exit(127)

    def _lend_limit(self) -> None:
        """Take the children's limit. Descriptors already open beyond it stay open."""
        if self._ours != self._children:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._children)

    def _restore_limit(self) -> None:
        if self._ours != self._children:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._ours)


def identify(pid: int) -> int:
    """Return a pidfd of a child just spawned (pidfd_open(2)); it is close-on-exec.

    Raises:
        SpawnFailure: when there are no descriptors left; the child is killed.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is its own
        raise SpawnFailure(error.errno or errno.EIO, "fork", "") from None


def failure(words: bytes) -> SpawnFailure:
    """Return what the child of a fork wrote before it ended."""
    stage, number, path = words.split(b"\0", 2)
    return SpawnFailure(int(number), stage.decode(), os.fsdecode(path))


def _pass_on(descriptors: Sequence[int], errors: int) -> int:
    """In the child of a fork, let these be descriptors 3, 4 and so on, which an exec does not close.

    Returns:
        The number that ``errors`` has from now on: it made room.

    Raises:
        OSError: EMFILE when there are no descriptors left.
    """
    room = 3 + len(descriptors)
    errors = fcntl.fcntl(errors, fcntl.F_DUPFD_CLOEXEC, room)
    # Each of them may be where another one has to go.
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, room) for descriptor in descriptors]
    for number, descriptor in enumerate(aside, 3):
        os.dup2(descriptor, number)
    return errors


def _set_oom_score_adjust(score: int) -> None:
    """See proc(5), /proc/PID/oom_score_adj.

    Raises:
        OSError: EACCES when only root may set one so low.
    """
    file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, b"%d" % score)
    finally:
        os.close(file)


def _raise_hard_limit(number: int, hard: int) -> None:
    """Raise a hard limit to a value, if it is lower: later, as another user, we may not.

    Raises:
        OSError: EPERM when we may not even now.
    """
    soft, now = resource.getrlimit(number)
    if now != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > now):
        _limit(number, soft, hard)


def _limit(number: int, soft: int, hard: int) -> None:
    """Set a limit whose soft value is not above the hard one.

    Raises:
        OSError: EPERM when only root may, or when the kernel has a limit of its own (proc(5), sys/fs/nr_open).
    """
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError:  # so the resource module has EPERM
        raise OSError(errno.EPERM, os.strerror(errno.EPERM)) from None


def _birthplace(cgroup: str) -> int:
    """Open a cgroup's directory. That is done while the limit on descriptors is ours.

    Raises:
        NotBornThere: it cannot be opened.
    """
    try:
        return os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotBornThere(error.errno or errno.EIO) from None


def _posix_spawn(
    path: str, command: list[str], environment: Mapping[str, str], actions: list[tuple[int, int, int]]
) -> int:
    # glibc leaves its own two signals (32 and 33) ignored in the child, whatever it is told; its programs know that.
    return os.posix_spawn(
        path, command, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=SIGNALS
    )


def _look_up(program: str, environment: Mapping[str, str], execute: Callable[[str], T]) -> T:
    """Execute ``program`` as execvpe does, with the child's PATH (execvp(3), os.execvpe).

    Raises:
        SpawnFailure: with the error that says most: the first that is not "there is none".
    """
    refused: OSError | None = None
    there = ""
    for path in (program,) if "/" in program else _candidates(program, environment):
        try:
            return execute(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = refused or error
            if not there and _is_there(path):
                there = path
    if refused is not None and refused.errno == errno.EAGAIN:
        raise SpawnFailure(errno.EAGAIN, "fork", "")
    if refused is not None:
        raise SpawnFailure(refused.errno or errno.EIO, "exec", there)
    if there:
        raise SpawnFailure(errno.ENOENT, "interpreter", _interpreter(there))
    raise SpawnFailure(errno.ENOENT, "exec", program)


def _candidates(program: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the files of PATH that ``program`` may be; what is not there is left out, for a try costs 0.5 ms."""
    for directory in environment.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, program)
        if _is_there(path):
            yield path


def _is_there(path: str) -> bool:
    """Tell whether there is such a file, or may be: then the exec says what is wrong with it."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _interpreter(path: str) -> str:
    """Return the interpreter that a script's first line names (execve(2)), or the path itself when it is no script."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return path
    try:
        line = os.read(file, 256).split(b"\n", 1)[0]
    except OSError:
        return path
    finally:
        os.close(file)
    words = line[2:].split() if line.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else path
