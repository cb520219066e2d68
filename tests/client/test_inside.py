"""exec and offload, with a real OpenSSH at both ends: sshd as the guest, one process for each connection."""

import getpass
import grp
import io
import os
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from herdpy.client.archive import pack, snapshot, unpack
from herdpy.client.offload import parse
from herdpy.client.words import Failure, quote
from herdpy.sexp import write

from .conftest import HERD, Herd, Server, Terminal, reply

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="needs Debian's openssh-server")


def _can_have_terminals() -> bool:
    """sshd gives a session's terminal to the group tty, which only root may, unless they are made so."""
    main, terminal = os.openpty()
    try:
        return os.geteuid() == 0 or os.fstat(terminal).st_gid == grp.getgrnam("tty").gr_gid
    finally:
        os.close(main)
        os.close(terminal)


class Guest:
    """What the other end of ssh sees: its temporary directory and its programs."""

    def __init__(self, directory: Path) -> None:
        self.temporary = directory / "guest"
        self.programs = directory / "bin"
        self.temporary.mkdir()
        self.programs.mkdir()

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    async def is_clean(self) -> None:
        """Wait until nothing is left of any job."""
        with trio.fail_after(60):
            while list(self.temporary.iterdir()):
                await trio.sleep(0.05)


@pytest.fixture
async def guest(tmp_path: Path, server: Server) -> Guest:
    guest = Guest(tmp_path)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    (tmp_path / "known_hosts").write_text(f"guest {(tmp_path / 'host.pub').read_text()}")
    # sshd(8) insists on this directory, which Debian's unit makes; another test may remove it again at any time.
    guest.program(
        "guest-sshd", f"mkdir -p -m 755 /run/sshd 2>/dev/null; exec {SSHD} -i -f {tmp_path}/sshd_config 2>/dev/null"
    )
    configuration = tmp_path / "sshd_config"
    configuration.write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin yes\nPidFile none\nLogLevel ERROR\n"
        f"SetEnv TMPDIR={guest.temporary} PATH={guest.programs}:/usr/bin:/bin\n"
    )
    ssh = [
        "ssh", "-F", "none", "-i", f"{tmp_path}/user", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={tmp_path}/known_hosts", "-o", "StrictHostKeyChecking=yes",
        "-o", f"ProxyCommand={guest.programs}/guest-sshd", f"{getpass.getuser()}@guest",
    ]  # fmt: skip
    server.answers["reach"] = reply(f"((reach (version 0) (running? #t) (ssh {write(ssh)}) (console #f)))")
    return guest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for that of a socket; pytest's own do not."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


# exec


@needs_sshd
async def test_the_arguments_arrive_as_they_were_given(guest: Guest, herd: Herd) -> None:
    done = await herd(
        "exec", "vm", "--", "sh", "-c", 'echo "a  b" "$1"; cat; exit 7', "sh", "it's $HOME * \\", stdin=b"in"
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"a  b it's $HOME * \\\nin", b"", 7)


@needs_sshd
async def test_255_is_explained(guest: Guest, herd: Herd, server: Server) -> None:
    done = await herd("exec", "vm", "sh", "-c", "exit 255")
    assert done.returncode == 255
    assert done.stderr.startswith(b"herd: error: exit code 255: either ssh lost vm without a word, or the command")
    server.answers["reach"] = reply(
        '((reach (version 0) (running? #t) (ssh ("ssh" "-F" "none" "-o" "ProxyCommand=/bin/false" "vm")) (console #f)))'
    )
    done = await herd("exec", "vm", "true")
    assert done.returncode == 255
    assert done.stderr.startswith(b"herd: error: cannot reach vm by ssh: "), done.stderr
    assert done.stderr.count(b"\n") == 1


@needs_sshd
@pytest.mark.skipif(not _can_have_terminals(), reason="terminals are not the group tty's here, and only root could")
async def test_a_shell_gets_the_terminal(guest: Guest, herd: Herd, terminal: Terminal) -> None:
    await terminal.run([*HERD, "exec", "vm"], herd.environment)
    await terminal.type(b"tty && echo size $((40 + 2))\n")
    await terminal.until(rb"/dev/pts/\d+\r\n.*size 42")
    await terminal.type(b"exit 9\n")
    assert await terminal.end() == 9


async def test_what_does_not_run_says_how_to_start_it(server: Server, herd: Herd) -> None:
    server.answers["reach"] = reply("((reach (version 0) (running? #f) (ssh ()) (console #f) (console-log #f)))")
    for action in (["exec", "vm"], ["offload", "vm", "--", "true"]):
        done = await herd(*action)
        assert (done.returncode, done.stderr) == (1, b"herd: error: vm is not running; start it with: herd start vm\n")


@pytest.mark.parametrize("words", [["a b", "", "'", "$x", "\n", "*", "-n", "é", "a'b'c", "~", "!"]])
def test_a_shell_takes_quoted_words_apart_again(words: list[str]) -> None:
    output = subprocess.run(["sh", "-c", f"printf '%s\\0' {quote(words)}"], capture_output=True, check=True).stdout
    assert output.decode().split("\0")[:-1] == words


# offload


def tree(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "run").write_text("#!/bin/sh\necho ran\n")
    (directory / "run").chmod(0o751)
    (directory / "empty").mkdir(mode=0o710)
    (directory / "-odd\nname \udcff é").write_bytes(b"\0\xff" * 70_000)
    (directory / "link").symlink_to("run")
    (directory / "dangling").symlink_to("nowhere")
    os.link(directory / "run", directory / "hard")
    os.mkfifo(directory / "fifo")
    return directory


@needs_sshd
async def test_a_job_and_its_results(guest: Guest, herd: Herd, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    script = (
        "ls -la >&2; ./run; cat; mkdir -p out/sub; cp -p -- *odd* out/sub/; printf x >out/made; chmod 640 out/made;"
        " touch -d @1000000000.5 out/made; ln -s made out/alias; [ -L dangling ] && [ -d empty ] && [ run -ef hard ] &&"
        " stat -c %a run empty && exit 3"
    )
    done = await herd(
        "offload", "vm", "-C", str(source), "--fetch", "out", "--fetch=./link", "--", "sh", "-c", script, stdin=b"in\n"
    )
    assert done.stdout == b"ran\nin\n751\n710\n", done.stderr
    assert done.returncode == 3
    assert b"fifo: neither a file, a directory nor a link; left out" in done.stderr
    made = (source / "out/made").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_mtime) == (0o640, 1000000000.5)
    assert (source / "out/alias").readlink() == Path("made")
    assert (source / "out/sub/-odd\nname \udcff é").read_bytes() == b"\0\xff" * 70_000
    await guest.is_clean()


@needs_sshd
async def test_a_guest_whose_clock_is_behind_still_makes_right(guest: Guest, herd: Herd, tmp_path: Path) -> None:
    """Source and object keep their order, and nothing comes from the future."""
    guest.program("date", "echo $(($(/bin/date +%s) - 3600))")
    source = tmp_path / "source"
    source.mkdir()
    now = time.time()
    for name, age in (("old.c", 9000.0), ("old.o", 8000.5), ("new.o", 22.25), ("new.c", 21.75)):
        (source / name).touch()
        os.utime(source / name, (now - age, now - age))
    os.utime(source, (now - 30, now - 30))
    script = (
        "[ new.c -nt new.o ] && [ old.o -nt old.c ] && [ new.o -nt old.o ] && stat -c %.Y new.c new.o;"
        " find . -newermt '-3599 seconds'"
    )
    done = await herd("offload", "vm", "--", "bash", "-c", script, cwd=source)
    assert done.returncode == 0, done.stderr
    newer, older = map(float, done.stdout.split())
    assert newer - older == pytest.approx(0.5, abs=0.01)
    assert newer == pytest.approx(now - 21.75 - 3600, abs=2)


@needs_sshd
async def test_times_are_kept_when_none_is_in_the_guests_future(guest: Guest, herd: Herd, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (source / "a", source):
        path.touch()
        os.utime(path, (1e9, 1e9 + 0.25))
    done = await herd("offload", "vm", "stat", "-c", "%.9Y", "a", cwd=source)
    assert done.stdout == b"1000000000.250000000\n"


@needs_sshd
async def test_what_the_command_did_not_make(guest: Guest, herd: Herd, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    done = await herd("offload", "vm", "--fetch", "a", "--fetch", "b", "--", "touch", "b", cwd=source)
    assert (done.returncode, done.stderr) == (1, b"herd: a: the command did not make it; nothing to bring back\n")
    assert (source / "b").exists()


@needs_sshd
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_however_it_ends_the_guest_is_left_clean(
    guest: Guest, server: Server, herd: Herd, tmp_path: Path, number: signal.Signals, short_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    # One command takes the hint, the others need to be made to leave.
    trap = f"trap 'echo bye >{tmp_path}/bye; exit' TERM" if number == signal.SIGINT else "trap '' TERM HUP"
    process = await trio.lowlevel.open_process(
        [*HERD, "offload", "vm", "--", "sh", "-c", f"echo $$; {trap}; while :; do sleep 1000 & wait; done"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=source,
        start_new_session=True,
        env={**herd.environment, "TMPDIR": str(short_path)},
    )
    assert process.stdout is not None
    with trio.fail_after(60):
        assert process.stderr is not None
        first = await process.stdout.receive_some()
        assert first, await process.stderr.receive_some()
        pid = int(first)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does it
        else:
            process.send_signal(number)
        status = await process.wait()
        assert status == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        if number == signal.SIGKILL:
            os.killpg(process.pid, signal.SIGTERM)  # its ssh; the connection's own one sees the end of its input
        while Path(f"/proc/{pid}").exists():
            await trio.sleep(0.02)
    await guest.is_clean()
    assert (tmp_path / "bye").exists() == (number == signal.SIGINT)
    if number != signal.SIGKILL:
        assert list(short_path.iterdir()) == []


@needs_sshd
async def test_a_guest_without_ssh(guest: Guest, server: Server, herd: Herd) -> None:
    server.answers["reach"] = reply(
        '((reach (version 0) (running? #t) (ssh ("ssh" "-F" "none" "-o" "ProxyCommand=/bin/false" "vm")) (console #f)))'
    )
    done = await herd("offload", "vm", "-C", "/usr/share/doc/base-files", "--", "true")
    assert done.returncode == 255
    assert done.stderr.startswith(b"herd: error: cannot reach vm by ssh: "), done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("path", ["/etc/passwd", "..", "../x", "a/../../x", "", "./../x"])
def test_nothing_is_fetched_from_outside(path: str) -> None:
    with pytest.raises(Failure, match="cannot fetch"):
        parse(["--fetch", path, "--", "true"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to run"),
        (["--"], "nothing to run"),
        (["--fetch"], "needs a value"),
        (["--what", "--", "true"], "no option --what"),
        (["-C", "/nonexistent", "--", "true"], "is no directory"),
    ],
)
def test_a_job_that_is_none(arguments: list[str], words: str) -> None:
    with pytest.raises(Failure, match=words):
        parse(arguments)


# A hostile guest


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, target, mode
    return found


def hostile(*members: tarfile.TarInfo) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for each in members:
            each.size = 4 if each.isreg() else 0
            archive.addfile(each, io.BytesIO(b"evil"))
    stream.seek(0)
    return stream


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("/tmp/herd-evil")],
        [member("out/../../evil")],
        [member("out/a/../b")],
        [member("other")],
        [member("out", tarfile.SYMTYPE, "/etc")],
        [member("out", tarfile.SYMTYPE, "..")],
        [member("out/a", tarfile.SYMTYPE, "../../victim")],
        [member("out", tarfile.LNKTYPE, "../victim")],
        [member("out", tarfile.LNKTYPE, "/etc/passwd")],
        [member("out", tarfile.LNKTYPE, "secret")],
        [member("out", tarfile.CHRTYPE)],
        [member("out", tarfile.FIFOTYPE)],
        [member("leads-out/evil")],
        # A link whose way out appears only once it has been checked.
        [
            member("out", tarfile.DIRTYPE, mode=0o755),
            member("out/d", tarfile.DIRTYPE, mode=0o755),
            member("out/s", tarfile.SYMTYPE, "d/x/../../../inside"),
            member("out/d/x", tarfile.SYMTYPE, "../../.."),
        ],
        [
            member("out", tarfile.DIRTYPE, mode=0o755),
            member("out/s", tarfile.SYMTYPE, "d/x/../.."),
            member("out/d", tarfile.DIRTYPE, mode=0o755),
            member("out/d/x", tarfile.SYMTYPE, ".."),
            member("out/s/../evil"),
        ],
    ],
    ids=lambda members: " ".join(f"{each.name}->{each.linkname}" for each in members),
)
def test_a_hostile_archive_writes_nothing_outside(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "secret").write_text("kept")
    (tmp_path / "victim").write_text("kept")
    (place / "leads-out").symlink_to(tmp_path)
    with pytest.raises(Failure):
        unpack(hostile(*members), str(place), ["out", "leads-out"])
    assert sorted(os.listdir(tmp_path)) == ["place", "victim"]
    assert (tmp_path / "victim").read_text() == "kept"
    assert (place / "secret").read_text() == "kept"
    for path in place.rglob("*"):
        if path.is_symlink() and path.name != "leads-out":
            assert path.resolve().is_relative_to(place), path
        assert not path.stat(follow_symlinks=False).st_mode & 0o6000


def test_what_is_there_is_replaced_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / "out").symlink_to("other")
    assert unpack(hostile(member("out", mode=0o4755)), str(tmp_path), ["out"]) == {"out"}
    assert (tmp_path / "other").read_text() == "kept"
    assert (tmp_path / "out").read_text() == "evil"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


def test_a_cut_archive_is_told(tmp_path: Path) -> None:
    whole = hostile(member("out")).getvalue()
    with pytest.raises(Failure, match="cannot bring back everything"):
        unpack(io.BytesIO(whole[:514]), str(tmp_path), ["out"])
    assert unpack(io.BytesIO(b""), str(tmp_path), ["out"]) == set()


def test_a_tree_survives_both_ways(tmp_path: Path) -> None:
    source, copy = tree(tmp_path / "source"), tmp_path / "copy"
    copy.mkdir()
    stream = io.BytesIO()
    pack(stream, str(source), snapshot(str(source)), 0)
    stream.seek(0)
    assert unpack(stream, str(copy), ["."]) == {"."}
    for name in ("run", "empty", "-odd\nname \udcff é", "link", "dangling"):
        before, after = os.lstat(source / name), os.lstat(copy / name)
        assert (before.st_mode, before.st_size) == (after.st_mode, after.st_size), name
        assert before.st_mtime == pytest.approx(after.st_mtime, abs=1e-5), name
    assert (copy / "run").samefile(copy / "hard")
