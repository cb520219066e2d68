"""``herd offload``: run a command in a guest on a copy of a directory, and bring back what it made."""

import contextlib
import os
import posixpath
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence

from herdpy.client.archive import Snapshot, pack, snapshot, unpack
from herdpy.client.inside import Reach
from herdpy.client.ssh import explain
from herdpy.client.words import Failure, quote, warn

USAGE = "herd offload SERVICE [-C DIR] [--fetch PATH]... -- COMMAND..."
CONNECTING = 60.0
"""Seconds until the first word from the guest."""
LEAVING = 15.0
"""Seconds until the guest has to have cleaned up."""

# Runs in the guest for as long as we are connected. It names the clock and the directory, then waits for the end of its
# input, which comes however we end. What the command left running is then ended with its process group (sshd makes
# each session's shell the leader of one), and the directory removed.
KEEPER = """\
top=$(mktemp -d) || exit 1
mkdir "$top/work" && date +%s.%N && printf '%s\\n' "$top" || exit 1
trap '' HUP INT TERM
cat >/dev/null
if group=$(cat "$top/group" 2>/dev/null); then
    kill -TERM "-$group" 2>/dev/null
    for wait in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "-$group" 2>/dev/null || break
        sleep 0.2
    done
    kill -KILL "-$group" 2>/dev/null
fi
chmod -R u+rwX "$top" 2>/dev/null
rm -rf "$top"
"""


class Job:
    """What the command line asks for."""

    __slots__ = ("command", "directory", "fetch")

    def __init__(self, directory: str, fetch: "list[str]", command: "list[str]") -> None:
        self.directory = directory
        self.fetch = fetch
        self.command = command


def parse(arguments: "Sequence[str]") -> Job:
    """Return what follows ``herd offload SERVICE``.

    Raises:
        Failure: when it is no job, or something is to be fetched to outside of the directory.
    """
    directory = "."
    fetch: list[str] = []
    words = list(arguments)
    while words and words[0] != "--" and words[0].startswith("-"):
        option, has_value, value = words.pop(0).partition("=")
        if option.startswith("-C") and option != "-C":
            option, has_value, value = "-C", "=", option[2:] + has_value + value
        if option not in {"-C", "--directory", "--fetch"}:
            raise Failure(f"offload has no option {option}; usage: {USAGE}")
        if not has_value:
            if not words:
                raise Failure(f"{option} needs a value; usage: {USAGE}")
            value = words.pop(0)
        if option == "--fetch":
            fetch.append(_confined(value))
        else:
            directory = value
    if words[:1] == ["--"]:
        words.pop(0)
    if not words:
        raise Failure(f"nothing to run; usage: {USAGE}")
    if not os.path.isdir(directory):
        raise Failure(f"{directory} is no directory; -C names the one to copy")
    return Job(directory, fetch, words)


def _confined(path: str) -> str:
    """Return ``path`` without detours; it has to stay within the directory."""
    plain = posixpath.normpath(path)
    if not path or path.startswith("/") or plain == ".." or plain.startswith("../"):
        raise Failure(f"cannot fetch {path!r}: name a path inside the copied directory, without a leading / and ..")
    return plain


def offload(reach: Reach, job: Job) -> int:
    """Carry out the job and return the command's exit code.

    Raises:
        Failure: when the guest cannot be reached, or something cannot be copied there or back.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    with tempfile.TemporaryDirectory(prefix="herd-", dir=_short_directory()) as private:
        session = Session(reach, private)
        try:
            session.open()
            session.send(job.directory, snapshot(job.directory))
            status = session.run(job.command)
            return session.fetch(job.directory, job.fetch, status) if job.fetch else status
        finally:
            session.close()


def _short_directory() -> str:
    """Return where temporary files go: the name of a Unix socket has 107 bytes, and ssh wants 17 of them for itself."""
    usual = tempfile.gettempdir()
    return usual if len(usual) < 64 else "/tmp"  # noqa: S108 - made with a random name and mode 0700


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


class Session:
    """One ssh connection, over which everything goes, and the directory in the guest that lives as long as it does."""

    def __init__(self, reach: Reach, private: str) -> None:
        self._service = reach.service
        self._ssh = reach.ssh
        self._socket = f"{private}/ssh"
        self._log = f"{private}/log"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._top = ""
        self._offset = 0.0

    def open(self) -> None:
        """Connect, and learn the guest's clock and the directory that it made for us.

        Raises:
            Failure: when ssh does not get there in time.
        """
        words = self._words("yes", KEEPER)
        try:
            # In a process group of its own: Ctrl-C ends the command, and this connection cleans up after it.
            self._keeper = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        except OSError as error:
            raise Failure(f"cannot run {words[0]}: {error.strerror}", 255) from None
        clock = self._line()
        host = time.time()
        self._top = self._line()
        seconds, _, fraction = clock.partition(".")
        if not seconds.isdigit() or not self._top.startswith("/"):
            raise Failure(f"{self._service} does not answer as a POSIX shell would: {clock!r}", 255)
        # Only GNU's date knows %N.
        self._offset = float(clock if fraction.isdigit() else seconds) - host

    def _line(self) -> str:
        import select

        assert self._keeper is not None and self._keeper.stdout is not None
        answer = b""
        deadline = time.monotonic() + CONNECTING
        descriptor = self._keeper.stdout.fileno()
        while not answer.endswith(b"\n"):
            if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise Failure(f"{self._service} did not answer by ssh within {CONNECTING:.0f} s", 255)
            byte = os.read(descriptor, 1)
            if not byte:
                raise Failure(self._explanation(), 255)
            answer += byte
        return answer[:-1].decode("utf-8", "surrogateescape")

    def send(self, directory: str, contents: Snapshot) -> None:
        """Copy the directory there.

        When a file would come from the guest's future, every time is shifted, by as much: make(1) compares them, and
        moving only some of them would lose their order.

        Raises:
            Failure: when a file cannot be read, or the guest cannot take it.
        """
        shift = self._offset if contents.newest > time.time() + self._offset else 0.0
        if contents.newest + shift > time.time() + self._offset:
            shift = time.time() + self._offset - contents.newest
        process = self._start(f"cd {quote([self._top])}/work && exec tar -xpof -", stdin=subprocess.PIPE)
        assert process.stdin is not None
        problem = ""
        try:
            with process.stdin:
                pack(process.stdin, directory, contents, shift)
        except BrokenPipeError:
            problem = "tar in the guest stopped reading"
        except OSError as error:
            process.kill()
            process.wait()
            raise Failure(f"cannot copy {error.filename or directory}: {error.strerror or error}") from None
        if self._finish(process) != 0 or problem:
            raise Failure(f"cannot copy {directory} to {self._service}: {problem or 'tar in the guest failed'}")

    def run(self, command: "Sequence[str]") -> int:
        """Run the command in the copy, its input and output being ours; return its exit code.

        Raises:
            Failure: when the connection is lost.
        """
        script = (
            f"cd {quote([self._top])}/work && echo $$ >../group || exit 1;"
            f" {quote(command)}; status=$?; rm -f ../group; exit $status"
        )
        status = self._finish(self._start(script, stdin=None))
        if status != 255:
            return status
        if self._keeper is not None and self._keeper.poll() is None:
            return status  # the connection stands: it was the command
        raise Failure(self._explanation(), 255)

    def fetch(self, directory: str, paths: "Sequence[str]", status: int) -> int:
        """Bring back the paths and return the exit code: the command's, or 1 when it succeeded without making them.

        Raises:
            Failure: when the guest sends something else, or a file cannot be written.
        """
        # GNU tar keeps fractions of seconds only in this format, which busybox's does not know by name.
        script = (
            f'cd {quote([self._top])}/work || exit 1; for path do shift; [ -e "$path" ] || [ -L "$path" ] || continue;'
            ' set -- "$@" "$path"; done; [ $# -gt 0 ] || exit 0; format=--format=posix;'
            ' tar $format -cf /dev/null -T /dev/null 2>/dev/null || format=; exec tar $format -cf - -- "$@"'
        )
        process = self._start(script, *paths, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            with process.stdout:
                found = unpack(process.stdout, directory, paths)
        except Failure:
            process.kill()
            process.wait()
            raise
        if self._finish(process) != 0:
            raise Failure(f"cannot bring back everything from {self._service}: tar in the guest failed")
        for path in paths:
            if path not in found:
                warn(f"{path}: the command did not make it; nothing to bring back")
                status = status or 1
        return status

    def close(self) -> None:
        """End the connection; the guest ends what still runs there and removes the directory."""
        keeper = self._keeper
        if keeper is None:
            return
        assert keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            keeper.stdin.close()
        try:
            keeper.wait(LEAVING)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            warn(f"{self._service} has not removed {self._top} yet; leaving it to that")
            keeper.kill()
            keeper.wait()

    def _words(self, master: str, script: str, *arguments: str) -> "list[str]":
        # exec, so that whatever the login shell is, the script's process is the one that sshd made a group's leader.
        remote = f"exec {quote(['sh', '-c', script, 'sh', *arguments])}"
        options = ["-E", self._log, "-S", self._socket, "-o", f"ControlMaster={master}", "-o", "ControlPersist=no"]
        return [self._ssh[0], *options, *self._ssh[1:], remote]

    def _start(
        self, script: str, *arguments: str, stdin: int | None = subprocess.DEVNULL, stdout: int | None = None
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._words("no", script, *arguments), stdin=stdin, stdout=stdout)

    def _finish(self, process: "subprocess.Popen[bytes]") -> int:
        try:
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        return status if status >= 0 else 128 - status

    def _explanation(self) -> str:
        try:
            with open(self._log, encoding="utf-8", errors="replace") as log:
                return explain(self._service, log.read(65_536))
        except OSError:
            return explain(self._service, "")
