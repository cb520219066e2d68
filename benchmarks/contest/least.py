"""The least that a supervisor on trio with a keeper of its own can be: what herdpy's figures cannot go below.

    python -I least.py COMMANDS.json vfork|cgroups

Two programs with a line between them, as herdpy's are: a keeper that spawns, waits and kills, of the standard library,
and a supervisor that says what. A pipe for each service's output, which nobody reads. With ``cgroups``, each service
has a control group of its own, and gets into it by herdpy's own code: a fork into it when it comes alone; in a crowd
the keeper enters it, and forks with vfork. Nothing else: no journal, no logger, no policy, no checks, no status.

SIGTERM kills all services and ends it.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

FEW = 4
"""So many spawns at once at most are none of a crowd."""
TOGETHER = 64
"""Services in a message."""


class Keeper:
    """Spawns, tells of ends, kills; by the service's number."""

    def __init__(self, line: socket.socket, home: Path | None) -> None:
        self.line = line
        self.home = home
        """The control group above the services', if they have any."""
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.poll = select.epoll()
        self.held: dict[int, tuple[int, int, int, Path | None]] = {}
        """By pidfd: number, PID, the read end of the output, the control group."""
        self.count = 0

    def run(self, signals: int) -> None:
        self.poll.register(self.line, select.EPOLLIN)
        self.poll.register(signals, select.EPOLLIN)
        is_ending = False
        while not (is_ending and not self.held):
            ended: list[int] = []
            for descriptor, _ in self.poll.poll():
                if descriptor in self.held:
                    ended.append(self.bury(descriptor))
                elif descriptor == signals:
                    os.read(signals, 100)
                    self.line.send(b"null")
                else:
                    told = self.line.recv(1 << 20)
                    if not told:
                        return
                    asked = json.loads(told)
                    if asked is None:
                        is_ending = True
                        for pidfd in self.held:
                            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    else:
                        self.spawn(asked)
            for first in range(0, len(ended), TOGETHER):
                self.line.send(json.dumps(ended[first : first + TOGETHER]).encode())

    def bury(self, pidfd: int) -> int:
        number, _, output, cgroup = self.held.pop(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self.poll.unregister(pidfd)
        os.close(pidfd)
        os.close(output)
        if cgroup is not None:
            cgroup.rmdir()
        return number

    def spawn(self, asked: list[tuple[int, list[str]]]) -> None:
        is_crowd = len(asked) > FEW
        for number, command in asked:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            cgroup = None
            if self.home is not None:
                self.count += 1
                cgroup = self.home / str(self.count)
                cgroup.mkdir()
            if cgroup is not None and not is_crowd:
                pid = self.fork(cgroup, command, writing)
            else:
                if cgroup is not None:
                    (cgroup / "cgroup.procs").write_bytes(b"0")
                pid = self.vfork(command, writing)
            os.close(writing)
            pidfd = os.pidfd_open(pid)
            self.held[pidfd] = number, pid, reading, cgroup
            self.poll.register(pidfd, select.EPOLLIN)
        if self.home is not None and is_crowd:
            (self.home / "keeper" / "cgroup.procs").write_bytes(b"0")

    def vfork(self, command: list[str], output: int) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, self.null, 0), *((os.POSIX_SPAWN_DUP2, output, n) for n in (1, 2))]
        return os.posix_spawn(command[0], command, {}, file_actions=actions, setsid=True)

    def fork(self, cgroup: Path, command: list[str], output: int) -> int:
        from herdpy.keeper.clone import forking_into

        pid = forking_into(str(cgroup))()
        if pid == 0:
            try:
                os.setsid()
                os.dup2(self.null, 0)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.execve(command[0], command, {})
            finally:
                os._exit(127)
        return pid


def keep(file: str, way: str) -> None:
    from herdpy.keeper.cgroup import find

    home = None
    if way == "cgroups":
        above = find()
        if above is None:
            sys.exit("there is no control group to make any in")
        home = Path(above) / f"herdpy-least-{os.getpid()}"
        (home / "keeper").mkdir(parents=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda *_: None)
    supervisor = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", __file__, file, "supervisor"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
    )
    theirs.close()
    Keeper(ours, home).run(reading)
    ours.close()
    os.waitpid(supervisor, 0)
    if home is not None:
        Path(home.parent / "cgroup.procs").write_bytes(b"0")
        for directory in (home / "keeper", home):
            with contextlib.suppress(OSError):
                directory.rmdir()


def supervise(file: str) -> None:
    """Have all spawned; whatever ends, again; until the keeper says null."""
    import trio

    commands: list[list[str]] = json.loads(Path(file).read_text())

    async def main() -> None:
        line = trio.socket.from_stdlib_socket(socket.socket(fileno=3))
        wanted = list(range(len(commands)))
        while True:
            for first in range(0, len(wanted), TOGETHER):
                asked = [(number, commands[number]) for number in wanted[first : first + TOGETHER]]
                await line.send(json.dumps(asked).encode())
            told = await line.recv(1 << 20)
            if not told:
                return
            wanted = json.loads(told)
            if wanted is None:
                await line.send(b"null")
                while await line.recv(1 << 20):
                    pass
                return

    trio.run(main)


if __name__ == "__main__":
    if sys.argv[2] == "supervisor":
        supervise(sys.argv[1])
    else:
        keep(*sys.argv[1:])
