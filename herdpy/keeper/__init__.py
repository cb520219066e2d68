"""The hands: spawn, reap, signal, hold. Standard library only, one thread, never blocks, never decides."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from herdpy.keeper.renewal import Table


class Options:
    """What the keeper needs to know. Relative paths are relative to where it is started.

    Attributes:
        socket: the control socket's path.
        state_directory: made unless it is there; one keeper has it at a time.
        log_directory: made unless it is there; holds ``herdpy.log``.
        pid_file: written once the supervisor is ready; ``-`` means a line on stdout, None means none.
        supervisor: the supervisor's command; its descriptor's number and ``arguments`` follow.
        arguments: the supervisor's own.
        environment: the supervisor's and the logger's, the whole of it.
        on_ready: called once, when the supervisor has said that the control socket answers.
        held: of a supervisor that becomes the keeper, the descriptors that the keeper before it held, by name.
        stderr: that keeper's, or None.
        table: of a keeper that has executed itself anew, what it had (:class:`herdpy.keeper.renewal.Table`).
        init: what that keeper knew of the init system (:class:`herdpy.keeper.init_system.InitSystem`); None when the
            environment tells.
        has_own_socket: whether the control socket's name is ours, and not the init system's.
    """

    def __init__(
        self,
        *,
        socket: str,
        state_directory: str,
        log_directory: str,
        supervisor: Sequence[str],
        arguments: Sequence[str] = (),
        environment: Mapping[str, str],
        pid_file: str | None = None,
        on_ready: Callable[[], None] = lambda: None,
        held: Mapping[str, int] | None = None,
        stderr: int | None = None,
        table: Table | None = None,
        init: Mapping[str, object] | None = None,
        has_own_socket: bool = True,
    ) -> None:
        self.socket = socket
        self.state_directory = state_directory
        self.log_directory = log_directory
        self.supervisor = supervisor
        self.arguments = arguments
        self.environment = environment
        self.pid_file = pid_file
        self.on_ready = on_ready
        self.held = held
        self.stderr = stderr
        self.table = table
        self.init = init
        self.has_own_socket = has_own_socket


def run(options: Options) -> int:
    """Be the keeper until the supervisor says that it is over; return the exit status.

    It takes over the process: its signals, its descriptors beyond 2, its working directory. What keeps it from
    beginning is one line on stderr, and the status is 1.
    """
    # Whoever only wants the messages pays for no more.
    from herdpy.keeper.begin import begin

    return begin(options)
