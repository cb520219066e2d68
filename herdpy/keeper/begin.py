"""The keeper's beginning and end: what must be so before it holds anything, and what it leaves behind."""

from __future__ import annotations

import os
import resource
import select
import sys

from herdpy.keeper import privilege
from herdpy.keeper.cgroup import Cgroups, key_of, left_in
from herdpy.keeper.estate import Estate
from herdpy.keeper.init_system import FIRST_DESCRIPTOR, InitSystem, as_told, is_neighbour
from herdpy.keeper.journal import NAME
from herdpy.keeper.keeper import Keeper
from herdpy.keeper.legacy import Legacy, read_legacy
from herdpy.keeper.listen import ControlSocket, given
from herdpy.keeper.place import STATE_MODE, Lock, Occupied, PidFile, Refusal, make_directory, own_descriptors
from herdpy.keeper.spawn import Spawner
from herdpy.keeper.succession import options_told

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    from herdpy.keeper import Options
    from herdpy.keeper.renewal import Table
else:
    import _signal as signal

LOGGER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "logger", "__main__.py")
MINIMAL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "minimal", "__main__.py")
LINE = "3"
"""The descriptor of a companion's line, its first argument."""


def begin(options: Options) -> int:
    """See :func:`herdpy.keeper.run`."""
    is_root = os.geteuid() == 0
    state_directory = os.path.abspath(options.state_directory)
    log_directory = os.path.abspath(options.log_directory)
    pid_file = PidFile(
        options.pid_file and (options.pid_file if options.pid_file == "-" else os.path.abspath(options.pid_file))
    )
    environment = dict(options.environment)
    init = InitSystem.of(environment)
    if options.init is not None:  # what the environment says was for a keeper before us
        init = as_told(options.init)
    try:
        null = own_descriptors()
        journal, elsewhere = os.path.join(state_directory, NAME), f"{os.path.abspath(options.socket)}.{NAME}"
        make_directory(state_directory, STATE_MODE if is_root else 0o700)
        make_directory(log_directory, 0o755 if is_root else 0o700)
        table = options.table
        lock = Lock(state_directory, is_heir=options.held is not None, inherited=None if table is None else table.lock)
        cgroups = Cgroups(key_of(state_directory))
        try:
            estate: Estate | Table | None = None
            problem = None
            if table is None:
                estate, problem = _estate((journal, elsewhere), options.held, cgroups.path)
            else:
                table.take()
                estate = table
            if table is None and options.held is None:  # nobody is to go without a successor for want of it
                pid_file.check()
            socket = os.path.abspath(options.socket)
            inherited = None if estate is None else estate.control()
            if init.sockets:
                inherited = given(socket, FIRST_DESCRIPTOR, init.sockets)
            control = ControlSocket(socket, inherited, is_ours=options.has_own_socket and not init.sockets)
        except Refusal:
            cgroups.remove()
            lock.release()
            raise
        if options.stderr is not None:
            os.dup2(options.stderr, 2)
            os.dup2(null, 1)
            os.close(options.stderr)
    except (Refusal, OSError) as error:
        if isinstance(error, Occupied) and error.pid is not None and is_neighbour(error.pid):
            # A supervisor has become the keeper, and the init system knows only of the one that was killed. Our status
            # is a failure all the same: it counts only if this is not believed.
            init.tell(f"MAINPID={error.pid}\nREADY=1")
        tell(f"herdpy: {error}\n".encode("utf-8", "backslashreplace"))
        return 1
    os.chdir("/")
    if table is None:
        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        spawner = Spawner(null)
    else:
        open_files = table.options["open_files"]
        spawner = Spawner(null, table.spawner, open_files)
    has_heirs = table is not None  # who go on with what we have, should we end by a mistake of our own
    try:
        keeper = Keeper(
            supervisor=[*options.supervisor, LINE, *options.arguments],
            logger=[sys.executable, "-I", "-S", LOGGER, LINE],
            minimal=[sys.executable, "-I", "-S", MINIMAL, LINE],
            environment=environment,
            log=os.path.join(log_directory, "herdpy.log"),
            listener=("control", control.socket.fileno()),
            pid_file=pid_file,
            spawner=spawner,
            cgroups=cgroups,
            on_ready=options.on_ready,
            journal=journal,
            elsewhere=elsewhere,
            succession=options_told(
                socket=os.path.abspath(options.socket),
                state_directory=state_directory,
                log_directory=log_directory,
                pid_file=pid_file.path,
                supervisor=list(options.supervisor),
                arguments=list(options.arguments),
                open_files=open_files,
                ignores_hangup=signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
                init=init.told(),
                has_own_socket=control.is_ours,
            ),
            init=init,
            estate=estate,
            lock=lock.descriptor,
            keep_place=lock.keep,
        )
        if problem is not None:
            keeper.say(problem)
        if table is not None and table.has_pid_file:
            pid_file.keep()
        elif estate is not None and estate.is_inherited:
            pid_file.inherit()
        privilege.become_subreaper()
        has_heirs = True
        keeper.run(_take_signals())
        has_heirs = False
        tell(keeper.last_words())
        if keeper.message is not None:
            tell(f"herdpy: {keeper.message}\n".encode("utf-8", "backslashreplace"))
        return keeper.status
    finally:
        if not has_heirs:
            pid_file.remove()
            control.close()
            lock.release()


def _estate(
    journals: tuple[str, ...], held: Mapping[str, int] | None, cgroups: str | None
) -> tuple[Estate | None, str | None]:
    """Return what a keeper before us has left, and what is wrong with its journal."""
    legacy, problem = read_legacy(*journals)
    if problem is not None:
        problem += "; what a former herdpy has left may not be known"
    if legacy is None and held is None and problem is None and (cgroups is None or not left_in(cgroups)):
        return None, None
    return Estate(legacy or Legacy(), held, cgroups), problem


def _take_signals() -> int:
    """Let the signals that concern us come in through a pipe; return its read end (signal.set_wakeup_fd)."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means us, not our children
            signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reading


def tell(words: bytes) -> None:
    """Write to stderr as far as it takes it within a second: it may be a terminal that is stopped, or a full pipe."""
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    for at in range(0, len(words), select.PIPE_BUF):  # so much a ready pipe takes without waiting (pipe(7))
        if not ready.poll(1000):
            return
        try:
            os.write(2, words[at : at + select.PIPE_BUF])
        except OSError:
            return
