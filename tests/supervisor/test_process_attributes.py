"""What a process service is given, through the installed programs: as the kernel and the service itself tell it."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from herdpy.kernel import CAPABILITIES

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a service as another user")
NOBODY = 65534


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that other users may pass, as root's state directory is; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="herdpy-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def credentials(herdpy, name: str) -> Path:
    return herdpy.state / "credentials" / name


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def environment_of(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(word.partition("=")[::2] for word in words if word)


def test_limits_nice_and_oom_score(herdpy, eventually):
    herdpy.declare(
        "a",
        'command = ["sleep", "1000"]\nnice = 7\noom-score-adjustment = 300\nno-new-privileges = true\n'
        'resource-limits = { nofile = 100, core = [0, "unlimited"], nproc = [3000, 4000] }\n',
    )
    herdpy.start()
    herdpy.ok("start", "a")
    pid = herdpy.status("a")["pid"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert found["Max open files"] == ["100", "100"]
    assert found["Max core file size"] == ["0", "unlimited"]
    assert found["Max processes"] == ["3000", "4000"]
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16] == "7"
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "300\n"
    assert status_of(pid)["NoNewPrivs"] == "1"
    configuration = herdpy.ok("configuration", "a")
    for line in (
        "resource-limits: nofile 100, core 0 (hard unlimited), nproc 3000 (hard 4000)",
        "nice: 7",
        "oom-score-adjustment: 300",
        "no-new-privileges: yes",
    ):
        assert line in configuration.splitlines()


@needs_root
def test_capabilities_of_another_user_survive_a_respawn(herdpy, eventually):
    herdpy.declare(
        "a",
        'command = ["sleep", "1000"]\nuser = "nobody"\nrespawn-delay = 0\n'
        'ambient-capabilities = ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"]\n',
    )
    herdpy.start()
    herdpy.ok("start", "a")
    wanted = 1 << CAPABILITIES.index("CAP_NET_BIND_SERVICE") | 1 << CAPABILITIES.index("CAP_NET_RAW")
    first = herdpy.status("a")["pid"]
    os.kill(first, 9)
    eventually(lambda: herdpy.status("a")["pid"] not in (None, first))
    status = status_of(herdpy.status("a")["pid"])
    assert status["Uid"].split() == [str(NOBODY)] * 4
    assert [int(status[each], 16) for each in ("CapAmb", "CapEff", "CapPrm", "CapInh")] == [wanted] * 4


def test_what_the_kernel_refuses_is_a_failed_start_with_the_next_step(herdpy):
    too_many = int(Path("/proc/sys/fs/nr_open").read_text()) + 1
    herdpy.declare("a", f'command = ["sleep", "1000"]\nresource-limits = {{ nofile = [10, {too_many}] }}\n')
    herdpy.start()
    completed = herdpy.herd("start", "a")
    assert completed.returncode == 1
    said = completed.stdout + completed.stderr
    assert "cannot start a: sleep cannot be given its resource limit nofile: Operation not permitted; a hard" in said


def test_environment_files_are_read_at_each_start(herdpy, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("# settings\nA='from one'\nB=\"from $one\"\nHOME=/nowhere\n")
    herdpy.declare(
        "a",
        'command = ["sleep", "1000"]\nenvironment = { A = "declared", C = "declared" }\n'
        f'environment-files = ["{one}", "-{two}"]\n',
    )
    herdpy.start()
    herdpy.ok("start", "a")
    found = environment_of(herdpy.status("a")["pid"])
    assert {name: found[name] for name in ("A", "B", "C", "HOME")} == {
        "A": "from one",
        "B": "from $one",
        "C": "declared",
        "HOME": "/nowhere",
    }
    assert "PATH" in found
    two.write_text("A=from two\n")
    herdpy.ok("restart", "a")
    assert environment_of(herdpy.status("a")["pid"])["A"] == "from two"
    assert f"environment-files: {one}, -{two}" in herdpy.ok("configuration", "a")


def test_a_mistake_in_an_environment_file_is_told_by_its_line_alone(herdpy, tmp_path):
    file = tmp_path / "file"
    file.write_text("A=1\nthe-secret\n")
    herdpy.declare("a", f'command = ["sleep", "1000"]\nenvironment-files = ["{file}"]\n')
    herdpy.start()
    completed = herdpy.herd("start", "a")
    assert completed.returncode == 1
    said = completed.stdout + completed.stderr
    assert f"cannot start a: {file}:2: expected NAME=VALUE, or # before a comment" in said
    assert "the-secret" not in said + herdpy.said() + herdpy.ok("status", "a")
    file.unlink()
    completed = herdpy.herd("start", "a")
    assert f"there is no environment file {file}; make it, or write" in completed.stdout + completed.stderr


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("the-secret\n")
    path.chmod(0o600)
    return path


def readable_by(uid: int, path: Path) -> bool:
    """Whether an ordinary user of that number can read a file."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os._exit(0 if path.read_text() else 1)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@needs_root
def test_a_credential_is_its_service_s_alone_and_gone_after(herdpy, tmp_path, secret, eventually):
    script = 'cat "$CREDENTIALS_DIRECTORY/token" > "$CREDENTIALS_DIRECTORY/copy"; exec sleep 1000'
    herdpy.declare(
        "a",
        f'command = {json.dumps(["sh", "-c", script])}\nuser = "nobody"\n'
        f'credentials = {{ token = "{secret}" }}\nrespawn-delay = 0\n',
    )
    herdpy.start()
    herdpy.ok("start", "a")
    directory = credentials(herdpy, "a")
    eventually(lambda: (directory / "copy").exists() and (directory / "copy").read_text() == "the-secret\n")
    assert environment_of(herdpy.status("a")["pid"])["CREDENTIALS_DIRECTORY"] == str(directory)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / "token")] == [0o700, 0o400]
    assert readable_by(NOBODY, directory / "token")
    assert not readable_by(NOBODY - 1, directory / "token")
    assert not readable_by(NOBODY, secret)

    # A new process, a new copy.
    secret.write_text("another-secret\n")
    first = herdpy.status("a")["pid"]
    os.kill(first, 9)
    eventually(lambda: herdpy.status("a")["pid"] not in (None, first))
    assert (directory / "token").read_text() == "another-secret\n"

    herdpy.ok("stop", "a")
    assert os.listdir(directory.parent) == []
    told = herdpy.ok("configuration", "a") + herdpy.ok("status", "a")
    assert f"credentials: token from {secret}" in told
    logs = "".join(path.read_text() for path in herdpy.log.iterdir())
    assert "the-secret" not in told + herdpy.said() + logs


def test_credentials_are_gone_when_the_program_cannot_be_executed(herdpy, secret):
    herdpy.declare("a", f'command = ["/nowhere"]\ncredentials = {{ token = "{secret}" }}\n')
    herdpy.declare(
        "b", f'command = ["sleep", "1"]\nenvironment-files = ["/nowhere"]\ncredentials = {{ token = "{secret}" }}\n'
    )
    herdpy.start()
    for name in ("a", "b"):
        assert herdpy.herd("start", name).returncode == 1
        assert os.listdir(credentials(herdpy, name).parent) == []


def test_credentials_are_gone_when_herdpy_ends_whoever_supervises(herdpy, secret, eventually):
    herdpy.declare("a", f'command = ["sleep", "1000"]\ncredentials = {{ token = "{secret}" }}\n')
    herdpy.start()
    herdpy.ok("start", "a")
    first = herdpy.supervisor()
    os.kill(first, 9)
    eventually(lambda: herdpy.children("herdpy.supervisor") not in ([], [first]))
    assert herdpy.status("a")["status"] == "running"
    assert (credentials(herdpy, "a") / "token").read_text() == "the-secret\n"
    assert herdpy.stop() == 0
    assert os.listdir(herdpy.state / "credentials") == []


def test_a_missing_credential_is_a_failed_start(herdpy, tmp_path):
    herdpy.declare("a", f'command = ["sleep", "1000"]\ncredentials = {{ token = "{tmp_path}/missing" }}\n')
    herdpy.start()
    completed = herdpy.herd("start", "a")
    assert completed.returncode == 1
    assert (
        f"cannot start a: cannot read the credential token from {tmp_path}/missing: No such file or directory"
        in completed.stdout + completed.stderr
    )
