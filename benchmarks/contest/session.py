"""One contestant with one fleet: from its boot to the end of everything that it started."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .accounting import Cost, Watched, cost, cpu_seconds, descendants, end_all, program
from .contestants import Contestant, Fleet
from .stamps import Stamp, Stamps, TooSlow

PATIENCE = 90.0
"""Seconds that anything may take; what takes longer is not measured."""

GENTLE = 20.0
"""Seconds that a supervisor has to end by itself before it is killed."""


class Session:
    """A supervisor that runs, with its services.

    Attributes:
        boot: seconds from the exec of the supervisor to the first instruction of its last service.
        running: the last stamp of each service, by its number.
        commands: each kind of command line that was used, for the reader of the table.
    """

    def __init__(self, contestant: Contestant, fleet: Fleet, service: Path, place: Path) -> None:
        self.contestant = contestant
        self.place = place
        self.fleet = fleet
        self.stamps = Stamps(place / "fifo")
        self.running: dict[int, Stamp] = {}
        self.commands: dict[str, str] = {}
        self._service = str(service)
        commands = [fleet.command(service, self.stamps.path, number) for number in range(fleet.count)]
        contestant.lay_out(place, fleet, commands)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self._environment = environment | dict(contestant.environment(place))
        command = [*contestant.daemon(place)]
        self.commands["daemon"] = " ".join(command)
        self.commands["service"] = " ".join(commands[-1])
        wanted = sum(fleet.begins(number) for number in range(fleet.count))
        with (place / "said").open("wb") as said:
            begin = time.monotonic()
            self.daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self._environment,
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self.daemon.pid)
        stamps = self.take(wanted)
        self.boot = max((stamp.seconds for stamp in stamps), default=begin) - begin

    def take(self, count: int) -> list[Stamp]:
        """Wait for the first acts of so many services.

        Raises:
            TooSlow: they did not come, or the supervisor ended.
        """
        stamps = self.stamps.take(count, PATIENCE, self._pidfd)
        self.running.update((stamp.number, stamp) for stamp in stamps)
        return stamps

    def end(self) -> None:
        """Let it end by itself, if it can in a while: who is killed leaves its control groups behind."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        self.daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.daemon.wait(GENTLE)
        os.close(self._pidfd)
        self.stamps.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def settle(self, seconds: float = 1.5) -> None:
        """Let it come to rest: some count a service as running only after a second."""
        time.sleep(seconds)

    def client(self, verb: str, name: str = "s0") -> float:
        """Run the client to its end; returns seconds."""
        command = [*self.contestant.client(self.place, verb, name)]
        self.commands.setdefault(verb, " ".join(command))
        begin = time.perf_counter()
        done = subprocess.run(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        took = time.perf_counter() - begin
        if done.returncode != 0 and not (verb == "status-all" and done.stdout):
            sys.stderr.write(f"{' '.join(command)}: status {done.returncode}: {done.stdout[-300:]!r}\n")
        return took

    def kill(self, numbers: list[int]) -> float:
        """SIGKILL services at once; returns the seconds until all of them began anew.

        Raises:
            TooSlow: they did not.
        """
        victims = Watched(self.running[number].pid for number in numbers)
        try:
            begin = time.monotonic()
            victims.kill()
            stamps = self.take(len(numbers))
        finally:
            victims.close()
        return max(stamp.seconds for stamp in stamps) - begin

    def begin_flood(self) -> float:
        """Start the service that floods; returns the clock at its first act."""
        self.client("start", "s0")
        return self.take(1)[0].seconds

    def processes(self) -> list[int]:
        """PIDs of the supervisor and of what belongs to it, without the services themselves."""
        below = [self.daemon.pid, *descendants(self.daemon.pid)]
        return [pid for pid in below if program(pid) not in ("", self._service)]

    def cpu(self) -> float:
        """CPU seconds that the supervisor has used so far."""
        return cpu_seconds(self.processes())

    def cost(self) -> Cost:
        """What the supervisor has cost so far."""
        return cost(self.processes())

    def shut_down(self) -> float:
        """Ask it to end; returns the seconds until neither it nor any service is left.

        Raises:
            TooSlow: something is still there after :data:`PATIENCE`.
        """
        everyone = Watched([self.daemon.pid, *(stamp.pid for stamp in self.running.values())])
        ending = self.contestant.ending(self.place)
        try:
            begin = time.monotonic()
            if ending is None:
                self.daemon.terminate()
            else:
                self.commands["shutdown"] = " ".join(ending)
                subprocess.run(
                    ending, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
                )
                self.daemon.send_signal(signal.SIGHUP)
            if not everyone.ended(PATIENCE):
                raise TooSlow(f"something still runs {PATIENCE:g} s after the shutdown was asked for")
            return time.monotonic() - begin
        finally:
            everyone.close()


@contextlib.contextmanager
def session(contestant: Contestant, fleet: Fleet, service: Path) -> Iterator[Session]:
    """A session; at its end everything is killed and removed, whatever happened."""
    place = Path(tempfile.mkdtemp(prefix="herdpy-benchmark-", dir="/var/tmp"))
    try:
        running = Session(contestant, fleet, service, place)
        try:
            yield running
        finally:
            running.end()
    except TooSlow as error:
        said = (place / "said").read_text(errors="replace")[-500:] if (place / "said").exists() else ""
        raise TooSlow(f"{contestant.name}: {error}; it said: {said.strip()}") from None
    finally:
        # What would interrupt us waits until all is gone.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        end_all(lambda line: print(line, file=sys.stderr))
        contestant.clean(place)
        shutil.rmtree(place, ignore_errors=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
