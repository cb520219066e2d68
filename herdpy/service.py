"""What a service is: pure data, made by the service types and run by the supervisor.

A :class:`Service` says what it provides, what it requires, how it is started and stopped, when it is respawned and what
it can tell. What cannot be said as data (filling a directory, waiting for a guest's hello) is a :class:`Step`: a frozen
value with one coroutine method, compared by value like everything else here, so that two plans can be compared field by
field. The vocabulary is GNU Shepherd's.

Such values cannot be in a cycle, and of those that every service has the collector is told so (``gc=False``): it need
not look through them, and each is 16 bytes smaller.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec


class StartFailure(Exception):  # noqa: N818 - it names what happened to the service, not a mistake in the program
    """A step or a process that did not get the service started.

    ``str()`` is one sentence for the person who asked, without the service's name: what was tried, on what, what is
    wrong and, where there is one, the next step. ``details`` are further lines worth showing (a console's last words).
    ``status`` is that of the process that ended otherwise than it should have (:attr:`End.exit_status`), if one did,
    and ``code`` its exit code, unless it was killed.
    """

    def __init__(self, reason: str, details: Sequence[str] = (), *, status: int = 1, code: int | None = None) -> None:
        super().__init__(reason)
        self.details = tuple(details)
        self.status = status or 1
        self.code = code


class ActionFailure(Exception):  # noqa: N818
    """An action that could not do what it was asked; ``str()`` is one sentence that says why and what to do."""


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a step ran to its end."""

    status: int
    """The exit code, or the negative number of the signal that killed it."""
    output: str
    """The end of what it wrote to stdout and stderr (at most 64 KiB), undecodable bytes replaced."""


class Context(Protocol):
    """What the supervisor offers to a step of one service's life."""

    name: str
    """The service's canonical name."""

    @property
    def details(self) -> Mapping[str, str]:
        """What :meth:`detail` remembers at the moment."""

    @property
    def memory(self) -> str:
        """What the service's attendant, or its predecessor in another supervisor, was last told to remember, by
        :meth:`AttendantContext.remember`; else empty. It lasts until the service has stopped."""

    def progress(self, stage: str, done: float | None = None) -> None:
        """Tell whoever watches this start what is going on.

        Args:
            stage: a few words, such as ``building the image: unpacking packages``.
            done: how much of the stage is done, from 0 to 1, when that is known.
        """

    def wait_on(self, line: str) -> None:
        """Answer whoever waits for this start, in a sentence, that it is not over, and has failed for them: it waits on
        for something that may come at any time, or never. To be called by a preparation step.
        """

    def detail(self, key: str, value: str | None) -> None:
        """Remember a fact of this start (which accelerator, which console) until the service stops; None forgets it.

        A supervisor that is killed leaves to the next one what it knew when the service's state last changed; what has
        to be known from now on is kept by :meth:`keep_details`.
        """

    async def keep_details(self) -> None:
        """Return when the next supervisor would know the details as they are now, should this one be killed."""

    async def command(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        user: str | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a command to its end as a child of the keeper; cancelling kills it and everything in its session.

        Args:
            command: program and arguments; the program is looked up in PATH.
            environment: the whole environment; None means the supervisor's own.
            user: the system user to run as; None means the supervisor's own.
            on_line: called with each line it writes, as it is written.

        Raises:
            StartFailure: when it cannot be executed (the errno in words).
        """
        ...

    async def execute(
        self,
        process: "Process",
        *,
        key: str | None = None,
        on_line: Callable[[str], None] | None = None,
        on_end: "Callable[[End], Awaitable[None]] | None" = None,
        connection: "Connection | None" = None,
    ) -> "End":
        """Run a process beside the service, its output going to the service's log, and wait until it has ended.

        Cancelling stops it as the service itself is stopped: its signal, its grace period, SIGKILL.

        Args:
            process: with everything it is given, as a service's own.
            key: made by an attendant, unique among its processes, so that its successor in another supervisor can take
                the process up again. Without one, it is ended when the supervisor is replaced.
            on_line: called with each line it writes, which then does not go to the log. Not together with a key.
            on_end: awaited when it has ended, also when it was stopped, and before the keeper forgets it: what this
                remembers is remembered before a successor can find the process gone. It must not take long.
            connection: what is its stdin and stdout; nobody else has it from then on.

        Raises:
            StartFailure: when it cannot be executed (the errno in words).
        """
        ...

    async def renew(self, signal: int, patience: float) -> None:
        """Have the main process read its configuration, or execute its program, anew: send it a signal, and wait until
        it has said READY=1 once more. One at a time, and only when it has answered the last one.

        Args:
            patience: seconds.

        Raises:
            StartFailure: it does not run, is not ready, says nothing in time, or has ended of it.
        """
        ...

    async def once(self, key: str, make: Callable[["Context"], Awaitable[None]]) -> None:
        """Run ``make`` unless another service is running it under the same key: then wait for that one's end.

        Raises:
            StartFailure: when ``make`` raised it, to everyone who waits.
        """


class ProcessContext(Context, Protocol):
    """What the supervisor offers beside a service's process: to its readiness, its guards and its companion."""

    @property
    def pid(self) -> int:
        """The main process's."""
        ...

    spawn: str
    """Names this spawn of the process: another supervisor has the same name for it, no other spawn ever has."""
    process: "Process"
    """What was spawned."""
    log_file: str
    """Where its output goes."""
    log_begin: int
    """The size that this file had before the process was spawned, in bytes."""
    log_since: float
    """A time before it was spawned, when all was in the file that was written before; in seconds since the epoch."""

    async def adopt(self, pid: int) -> None:
        """Take another process of the service's for its main one: a daemon that its first process forked.

        Raises:
            StartFailure: there is no such process, or it is not one of this service's.
        """


class Request(Protocol):
    """What somebody asks of a service's attendant, by an action; it is answered once."""

    arguments: tuple[str, ...]

    def answer(self, text: str) -> None:
        """Tell whoever asked, in one line, what was done."""

    def refuse(self, reason: str) -> None:
        """Tell whoever asked, in one sentence, why it was not done: an :class:`ActionFailure` there."""


class AttendantContext(Context, Protocol):
    """What the supervisor offers to an attendant."""

    left: tuple[str, ...]
    """Keys of the processes that a predecessor in another supervisor was executing: each is to be resumed."""

    connections: "tuple[Connection, ...]"
    """What a predecessor in another supervisor has accepted, and not dropped; a process may have it already."""

    async def incoming(self, number: int) -> None:
        """Wait until somebody wants to connect to the service's socket of this number, from 0."""

    async def accept(self, number: int) -> "Connection | None":
        """Take a connection from the service's socket of this number; None when it is gone again.

        Raises:
            StartFailure: the host has no room for it now.
        """
        ...

    async def drop(self, connection: "Connection") -> None:
        """Close a connection that no process was given."""

    async def remember(self, text: str) -> None:
        """Keep a text for a successor in another supervisor."""

    async def resume(self, key: str, *, on_end: "Callable[[End], Awaitable[None]] | None" = None) -> "End":
        """Wait for the end of a process that a predecessor was executing, as :meth:`execute` does."""
        ...

    def adapt(self, become: "Callable[[Attendant], bool]") -> None:
        """Have this called when the service gets another attendant while it runs, as it is declared then.

        Args:
            become: returns whether the attendant goes on as that one; else it is cancelled, and the other one run.
        """

    async def request(self) -> Request:
        """Wait for what is asked of the attendant, by :meth:`ActionContext.ask`."""
        ...

    def log(self, event: str, **fields: object) -> None:
        """Tell herdpy's log, and whoever follows the events: ``timer-run``, ``status=0``."""


@runtime_checkable
class Step(Protocol):
    """One thing to be done in a service's life. Implementations are frozen structs.

    Raises:
        StartFailure: in a preparation step.
    """

    async def run(self, context: Context) -> None: ...


@runtime_checkable
class Foresight(Protocol):
    """What can tell beforehand what would fail on this host, or be worse than it could be: for ``herd doctor``. Many a
    :class:`Step` can."""

    def lack(self) -> str | None:
        """What is missing, and how to get it, in one sentence; None when nothing is. Changes nothing. It may wait for
        a disk: it is called in a thread."""
        ...


@runtime_checkable
class Readiness(Protocol):
    """Returns once a service's process is ready; any :class:`Step` can be one. Implementations are frozen structs.

    Raises:
        StartFailure: it does not get ready.
    """

    async def run(self, context: ProcessContext) -> None: ...


@runtime_checkable
class Companion(Protocol):
    """Runs beside a service's process from its spawn to its end, and may learn why it ended.

    ``run`` returns, when it knows, why the process is about to end; it is cancelled a moment after the process's end.
    """

    async def run(self, context: ProcessContext) -> "End | None": ...


@runtime_checkable
class Guard(Protocol):
    """Watches a service's process from the moment it is ready until it ends. Implementations are frozen structs.

    ``run`` returns when the process is of no use any more, though it runs: the reason, in words that follow "it", such
    as ``did not answer its health check 3 times in a row``. The process is then ended, and that counts as a failure.
    """

    async def run(self, context: ProcessContext) -> str: ...


@runtime_checkable
class Consent(Protocol):
    """Is asked before a service is stopped. Implementations are frozen structs.

    Raises:
        StartFailure: the service had better run on; why, and how to stop it all the same.
    """

    async def run(self, context: ProcessContext) -> None: ...


@runtime_checkable
class Renewal(Protocol):
    """What a service does instead of being restarted, if it can. Implementations are frozen structs.

    Returns:
        What was done, in a sentence for who asked; None when it can, and shall, be restarted.

    Raises:
        StartFailure: it could not be done, and nothing was.
    """

    async def run(self, context: ProcessContext) -> str | None: ...


@runtime_checkable
class Attendant(Protocol):
    """What a service without a process of its own does while it runs: a timer waits, a listener accepts.

    Implementations are frozen structs. ``run`` begins when the service has started, and anew in the next supervisor; it
    is cancelled when the service is stopped. When it returns, or raises StartFailure, the service has ended by itself.
    """

    async def run(self, context: AttendantContext) -> "End": ...


class End(msgspec.Struct, frozen=True, kw_only=True):
    """What a companion knows of a process's end that its exit status does not tell."""

    reason: str
    """In words, to follow the service's name: ``the guest panicked``."""
    wanted: bool = False
    """True when the end was asked for from inside (a guest that was told to power off): no respawn then."""
    code: int | None = None
    """The exit code; None when it was killed, or when the end is not the process's own doing."""
    signal: int | None = None
    """The signal that killed it, if one did."""
    was_stopped: bool = False
    """Whether an attendant's process was sent the stop signal by us, and did not end by itself before."""

    @property
    def exit_status(self) -> int:
        """What a shell would make of it: the exit code, or 128 and the signal's number; 1 when it has neither."""
        if self.wanted:
            return 0
        if self.code is not None:
            return self.code
        return 1 if self.signal is None else 128 + self.signal


@runtime_checkable
class Variables(Protocol):
    """Environment variables that are known only when a process is about to be spawned. Implementations are frozen
    structs.

    Raises:
        StartFailure: they cannot be had.
    """

    async def read(self) -> Mapping[str, str]: ...


class Limit(msgspec.Struct, frozen=True):
    """A resource limit (setrlimit(2)); None means unlimited."""

    name: str
    """As in setrlimit(2), without RLIMIT_ and in lower case: ``nofile``."""
    soft: int | None
    hard: int | None


class Process(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A process to spawn, as the keeper needs to know it."""

    command: tuple[str, ...]
    environment: dict[str, str] = {}
    """What is added to the service's base environment (PATH, HOME, USER, LANG...)."""
    directory: str | None = None
    """Working directory; None means ``/`` for root and HOME for an ordinary user, as Shepherd has it."""
    user: str | None = None
    group: str | None = None
    supplementary_groups: tuple[str, ...] | None = None
    umask: int | None = None
    variables: tuple[Variables, ...] = ()
    """What is added to the environment, over ``environment``, later ones over earlier ones, each time it is spawned."""
    limits: tuple[Limit, ...] = ()
    """Those that are not the ones herdpy itself was started with."""
    nice: int | None = None
    """From -20 to 19; None means herdpy's own."""
    oom_score_adjustment: int | None = None
    """From -1000 (never killed for want of memory) to 1000; None means herdpy's own."""
    ambient_capabilities: tuple[str, ...] = ()
    """What it may do although it is not root's, by the names in capabilities(7)."""
    no_new_privileges: bool = False
    """Whether no program that it executes gets privileges of its own (prctl(2), PR_SET_NO_NEW_PRIVS)."""


class Notify(msgspec.Struct, frozen=True, kw_only=True):
    """A process that tells of itself through a datagram socket, as sd_notify(3) has it."""

    socket: str
    """The path of the socket, which NOTIFY_SOCKET names to the process: at most 107 bytes (unix(7))."""
    tells_ready: bool = True
    """Whether the service is ready when it has said READY=1 and then the readiness step, if there is one, has returned;
    of a daemon that forks, in the other order."""
    access: Literal["main", "all"] = "main"
    """Whose word counts: the main process's, or that of any process of the service."""
    watchdog: float | None = None
    """Seconds within which the process, once it is ready, has to say WATCHDOG=1 again and again, or it is ended by
    SIGABRT and has failed; None means that it need not."""
    user: str | None = None
    """Who may write to the socket; None means: who the process is spawned as. For a process that changes its user."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One way to get the service running; when it does not get ready, the next one is tried."""

    process: Process
    prepare: tuple[Step, ...] = ()
    """Done in this order before the process is spawned, after the service's own preparation."""
    readiness: Readiness | None = None
    """None means: ready once the exec has succeeded, and READY=1 is said if ``notify`` wants that."""
    notify: Notify | None = None
    """None means that the process is given no NOTIFY_SOCKET."""
    forking: bool = False
    """Whether the process spawned is to end with 0 when another, which it leaves behind, is to be adopted: by the
    readiness step, or by MAINPID=. That it ends otherwise before the service is ready is a failed start."""
    timeout: float = 300.0
    """Seconds from the spawn until ready."""
    details: tuple[tuple[str, str], ...] = ()
    """Facts of this way, such as ``("accelerator", "TCG: ...")``, shown while it is in use."""


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is stopped: its own graceful way, then the signal to its processes, then SIGKILL."""

    consent: Consent | None = None
    """Asked before it is stopped, or anything that it is stopped along with, unless the stop is forced (``herd stop
    NAME --force``) or herdpy itself stops."""

    graceful: Step | None = None
    graceful_timeout: float = 30.0
    """Seconds from the beginning of the graceful way until the signal is sent."""
    signal: int = 15
    grace_period: float = 5.0
    """Seconds from the signal to SIGKILL (Shepherd's default-process-termination-grace-period)."""
    scope: Literal["group", "process"] = "group"
    """Whether all its processes end with the main one, or that one alone is ended: the others are none of ours."""


class Respawn(msgspec.Struct, frozen=True, kw_only=True):
    """When a process that ended is started again. The defaults are Shepherd's: 5 times in 7 s, after 0.1 s."""

    enabled: bool = True
    limit: int = 5
    """So many ends within the interval, and the service is disabled."""
    interval: float = 7.0
    delay: float = 0.1
    """Seconds from an end to the next start."""
    delay_limit: float | None = None
    """When set, the delay doubles with each end in a row, up to so many seconds, and varies by a tenth, so that
    services that fell together do not rise together."""
    healthy_after: float = 60.0
    """Seconds of running after which an end is again the first in a row."""
    only_on_failure: bool = False
    """Whether an end with an exit code in ``success`` is left at that."""
    success: tuple[int, ...] = (0,)
    final: tuple[int, ...] = ()
    """Exit codes that forbid a respawn, whatever else holds."""


SocketKind = Literal["stream", "datagram", "seqpacket"]
"""socket(2)'s types: TCP or a Unix stream, UDP or Unix datagrams, Unix packets in order."""


class InternetAddress(msgspec.Struct, frozen=True):
    """An address and a port to listen on."""

    host: str
    """An IPv4 or IPv6 address, the latter perhaps with its zone (``fe80::1%eth0``); empty: all addresses of both."""
    port: int
    """0: one that the kernel chooses."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


class UnixAddress(msgspec.Struct, frozen=True):
    """The address of a Unix socket."""

    path: str
    """An absolute path; or ``@`` and a name of the abstract kind (unix(7))."""

    @property
    def shortest(self) -> str:
        """The path without what makes no difference, as in ``//x`` and ``/./x``."""
        return self.path if self.path.startswith("@") else f"/{os.path.normpath(self.path).lstrip('/')}"

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """A socket that is bound before there is a process to use it, and that the keeper holds until the service stops."""

    address: InternetAddress | UnixAddress
    kind: SocketKind = "stream"
    name: str = "unknown"
    """By which the process knows it (LISTEN_FDNAMES, sd_listen_fds(3))."""
    backlog: int = 4096
    """So many connections may wait (listen(2)); the kernel allows net.core.somaxconn at most."""
    v6_only: bool = True
    """Whether an IPv6 socket leaves IPv4 alone (ipv6(7)); does not concern the address of all."""
    reuse_port: bool = False
    """SO_REUSEPORT: other programs of the same user may bind the address as well (socket(7))."""
    free_bind: bool = False
    """IP_FREEBIND: the address need not be there yet (ip(7))."""
    keep_alive: bool = False
    """SO_KEEPALIVE: whether connections are probed (tcp(7))."""
    interface: str | None = None
    """SO_BINDTODEVICE: what comes in by another interface is not for it."""
    user: str | None = None
    """The owner of a Unix socket's path; None means: as herdpy."""
    group: str | None = None
    mode: int = 0o666
    """Of a Unix socket's path."""
    directory_mode: int = 0o755
    """Of directories that are made for it."""

    def __str__(self) -> str:
        is_udp = self.kind == "datagram" and isinstance(self.address, InternetAddress)
        return f"udp:{self.address}" if is_udp else str(self.address)


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that was accepted, and that a process is to be given."""

    key: str
    """Of no other connection of this service's: digits."""
    local: InternetAddress | UnixAddress
    remote: InternetAddress | UnixAddress
    """For a Unix socket mostly of no path: who connects seldom has one."""
    peer: tuple[int, int, int] | None = None
    """PID, uid and gid of who connected to a Unix socket (unix(7), SO_PEERCRED)."""


class Port(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A port of the host that a service listens on."""

    port: int
    address: str = "127.0.0.1"
    protocol: str = "tcp"
    v6_only: bool = False
    """Whether the address ``::`` leaves IPv4 alone."""

    def __str__(self) -> str:
        return str(self.port)


@runtime_checkable
class Look(Protocol):
    """Finds out a fact that may be another whenever somebody asks. Implementations are frozen structs."""

    def look(self) -> tuple[Any, str]:
        """Its value in JSON, and for a person. Changes nothing and raises nothing. It may wait for a disk: it is called
        in a thread."""
        ...


class Fact(msgspec.Struct, frozen=True):
    """One line of ``herd configuration SERVICE``."""

    key: str
    """Its name in JSON."""
    label: str
    value: Any
    """Its value in JSON."""
    text: str
    """Its value for a person."""
    detail: str | None = None
    """The key of the start's detail (see :meth:`Context.detail`) that replaces the value while there is one."""
    look: Look | None = None
    """Replaces the value, if it answers soon."""


def plain(key: str, label: str, value: Any) -> Fact:
    """A fact whose text is its value: a sequence's items with commas between them."""
    if isinstance(value, tuple | list):
        return Fact(key, label, list(value), ", ".join(map(str, value)))
    return Fact(key, label, value, str(value))


class Caution(msgspec.Struct, frozen=True):
    """Something in a declaration that is right, but does not do what one may think."""

    key: str
    """Its path: ``tls-port``."""
    words: str
    """To follow the key: ``has no effect without listen = true``."""


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How a person's client gets inside a running service."""

    ssh: tuple[str, ...] = ()
    """The start of an ssh command line, up to and with the destination."""
    console: str | None = None
    """A Unix stream socket that speaks for a terminal."""
    console_log: str | None = None


class ActionContext(Context, Protocol):
    """What an action may ask of the supervisor, besides what a step may."""

    is_running: bool
    pid: int | None
    """The main process's, while there is one."""

    async def signal(self, number: int) -> None:
        """Send a signal to the main process alone; nothing happens when there is none any more.

        Raises:
            ActionFailure: it is not ours to signal.
        """

    async def ask(self, *arguments: str) -> str:
        """Ask the service's attendant, and wait for its answer.

        Raises:
            ActionFailure: with its reason, or because the service does not run.
        """
        ...

    def is_registered(self, name: str) -> bool:
        """Whether there is a service of this name."""
        ...

    async def register(self, name: str, declaration: str) -> None:
        """Register a service while herdpy runs, and start it.

        Args:
            name: the service's.
            declaration: as :attr:`Service.declaration` has it; what it says is checked as a file's would be.

        Raises:
            ActionFailure: it has mistakes, or does not go together with what there is; nothing is registered then.
            StartFailure: it could not be started.
        """

    def print(self, line: str) -> None:
        """Show a line to whoever asked."""


@runtime_checkable
class Operation(Protocol):
    """What an action does. Implementations are frozen structs.

    Returns:
        What is told to the client; None when there is nothing but what was printed, False when it failed.

    Raises:
        ActionFailure, StartFailure: with the reason.
    """

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object: ...


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Something else a service can do when asked: ``herd NAME SERVICE ARGUMENTS``."""

    name: str
    documentation: str
    operation: Operation
    right: Literal["read", "operate", "full"] = "operate"
    """What it takes to ask for it, when groups may ask (``[control]``): ``full`` where asking could make one root."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """How a log file is rotated; the logger takes it field by field (herdpy.logger.rotation)."""

    size: int | None = None
    """Bytes that it grows to."""
    every: str | None = None
    """``day`` or ``week``."""
    keep: int = 5
    """So many rotated files are kept."""
    keep_days: int | None = None
    """Days that one is kept; None means for ever."""
    compress: str = "gzip"
    """``gzip``, ``zstd`` or ``none``."""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """How a running service takes it that it is declared otherwise."""

    kind: Literal["now", "restart", "next-start"]
    """``now``: it is the new one from now on, once ``step`` is done; its process goes on running. ``restart``: it is
    stopped and started. ``next-start``: it becomes the new one when it has stopped; the status says so meanwhile."""
    words: str
    """What happens, to follow the service's name: ``is re-executed``."""
    step: Step | None = None


@runtime_checkable
class OnChange(Protocol):
    """Decides how a service of one type takes a change. Pure; implementations are frozen structs."""

    def effect(self, before: "Service", after: "Service") -> Effect: ...


class Service(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A service, as its declaration and its type make it."""

    provision: tuple[str, ...]
    """Its names; the first is canonical."""
    requirement: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    """Services that are started along with it; whether they start, or are there at all, does not matter to it."""
    after: tuple[str, ...] = ()
    """Services whose start it waits for when they are starting too, however that ends."""
    members: tuple[str, ...] = ()
    """Services that are started with it, once what it requires runs, and stopped after it; while it runs they may come
    and go by themselves."""
    one_shot: bool = False
    """Whether it is done, and stopped again, when its process has ended with success."""
    essential: bool = False
    """Whether herdpy stops everything and ends, with the process's status, when this service is given up."""
    documentation: str = "[No description.]"
    source: str = ""
    """The declaration it comes from, for messages: ``/etc/herdpy/services/build-vm.toml``."""
    declaration: str = ""
    """The declaration whole, in JSON: should its file be gone or mistaken when the supervisor is replaced, the service
    can be made from it once more."""
    auto_start: bool = False
    prepare: tuple[Step, ...] = ()
    """Done in this order before the process is spawned, at each start and respawn."""
    attempts: tuple[Attempt, ...] = ()
    """The ways to start it, best first; none means: running is only a state."""
    aftermath: tuple[Step, ...] = ()
    """Done in this order after each end of the process, and when an attempt's preparation led to none; a failure is
    logged and changes nothing."""
    companion: Companion | None = None
    guards: tuple[Guard, ...] = ()
    """Run at once, beside a process that is ready."""
    attendant: Attendant | None = None
    """Of a service without attempts."""
    sockets: tuple[Socket, ...] = ()
    """Bound at its start, before its preparation, and open until it has stopped: its processes are given them, or its
    attendant accepts connections."""
    lazy: bool = False
    """Whether its process is spawned when something waits at one of the sockets; it runs without one until then, and
    again after the process's end."""
    transient: bool = False
    """Whether it is gone when it has stopped."""
    takes_arguments: bool = False
    """Whether ``herd start NAME ARGUMENTS`` adds them to the command line."""
    stop: Stop = Stop()
    renewal: Renewal | None = None
    """None means that a restart is one."""
    respawn: Respawn = Respawn()
    log_file: str | None = None
    """Where its output goes; None means ``NAME.log`` in the log directory."""
    log_rotation: Rotation | None = None
    """None means that the log file grows for ever."""
    ports: tuple[Port, ...] = ()
    cautions: tuple[Caution, ...] = ()
    foresights: tuple[Foresight, ...] = ()
    """What ``herd doctor`` looks at besides those of its steps that can tell."""
    facts: tuple[Fact, ...] = ()
    """What ``herd configuration`` tells. The supervisor does not keep them of what is declared, but has them made again
    from the declaration when somebody asks."""
    reach: Reach | None = None
    actions: tuple[Action, ...] = ()
    on_change: OnChange | Literal["restart", "next-start"] = "next-start"
    """How it takes a change of what its process was spawned with, while that runs."""

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.provision[0]

    @property
    def has_processes(self) -> bool:
        """Whether it has processes of its own, or its attendant has: else it never ends by itself, nor writes a log."""
        return bool(self.attempts) or self.attendant is not None
