"""The declaration for Guix, loaded by a real Guile as ``guix offload`` loads it, against a server with literal replies.

Guix itself is not to be had here. What stands in for it: a module ``(guix scripts offload)`` that defines
``build-machine`` with the fields that Guix documents, and a command ``guix`` that takes the arguments of ``guix
archive`` and keeps its files where Guix does.
"""

import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy import sexp
from herdpy.qemu.guix import WriteDeclaration, declaration, public_part
from herdpy.service import StartFailure

GUILE = shutil.which("guile")
needs_guile = pytest.mark.skipif(GUILE is None, reason="needs guile (the package guile-3.0)")

OFFLOAD = """\
(define-module (guix scripts offload)
  #:export (build-machine build-machine?))

(define-syntax-rule (build-machine (field value) ...)
  (begin
    (list 'build-machine (check 'field) ...)
    (list 'build-machine (cons 'field value) ...)))

(define (build-machine? thing)
  (and (pair? thing) (eq? 'build-machine (car thing))))

(define (check field)
  (or (memq field '(name port systems user private-key host-key compression compression-level daemon-socket
                    overload-threshold parallel-builds speed features))
      (error "no such field" field)))
"""

LOADER = """\
(define user-module (make-fresh-user-module))
(module-use! user-module (resolve-interface '(guix scripts offload)))
(define before (hash-count (const #t) (module-obarray user-module)))
(define machines
  (save-module-excursion
   (lambda ()
     (set-current-module user-module)
     (primitive-load (cadr (command-line))))))
(unless (= before (hash-count (const #t) (module-obarray user-module)))
  (error "the declaration has left definitions behind"))
(write machines)
"""

SERVICE = (
    '(service (version 0) (provides (build-vm)) (requires ()) (respawn? #t) (docstring "Ein Gerät. \\"x\\"")'
    " (enabled? #t) (running {running}) (conflicts ()) (last-respawns ())"
    " (status-changes ((running . 1795326529) (starting . 1795326529))) (startup-failures ()){status}"
    ' (one-shot? #f) (transient? #f) (respawn-limit (5 . 7)) (respawn-delay 0.1) (reason #f) (log-file "/var/log/x"))'
)


def reply(result: str, error: str = "#f") -> bytes:
    return f"(reply (version 0) (result {result}) (error {error}) (messages ()))".encode()


def service(running: str, status: str | None) -> bytes:
    return reply(f"({SERVICE.format(running=running, status=f' (status {status})' if status else '')})")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("modules")
    (directory / "guix/scripts").mkdir(parents=True)
    (directory / "guix/scripts/offload.scm").write_text(OFFLOAD)
    (directory / "load.scm").write_text(LOADER)
    return directory


def written(path: Path, control_socket: Path, **changes) -> Path:
    arguments = {
        "name": "build-vm",
        "port": 11022,
        "private_key": "/var/lib/herdpy/keys/build-vm/id_ed25519",
        "host_key": "ssh-ed25519 AAAAC3Nz root@build-vm, made by hand\n",
        "systems": ("x86_64-linux", "i686-linux"),
        "control_socket": str(control_socket),
    }
    path.write_text(declaration(**(arguments | changes)))
    return path


def load(modules: Path, path: Path) -> object:
    completed = subprocess.run(
        [GUILE, "--no-auto-compile", "-L", str(modules), str(modules / "load.scm"), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C.UTF-8", "GUILE_AUTO_COMPILE": "0"},
    )
    assert (completed.returncode, completed.stderr) == (0, ""), completed.stderr
    return sexp.read(completed.stdout)


@contextmanager
def herdpy_says(path: Path, pieces: list[bytes], *, pause: float = 0, hold: bool = False) -> Iterator[list[bytes]]:
    """A control socket whose every client gets ``pieces``, and after them the end, unless it is held open."""
    questions: list[bytes] = []
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    questions.append(connection.recv(65536))
                    try:
                        for piece in pieces:
                            connection.sendall(piece)
                            if over.wait(pause):
                                return
                        if hold:
                            over.wait(60)
                    except BrokenPipeError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield questions
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@needs_guile
def test_a_running_service_is_a_machine(modules: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "build-vm.scm", tmp_path / "socket", parallel_builds=2, speed=0.5)
    with herdpy_says(tmp_path / "socket", [service("4711", "running")]) as questions:
        machines = load(modules, path)
    assert questions == [
        b'(shepherd-command (version 0) (action status) (service build-vm) (arguments ()) (directory "/"))'
    ]
    [[kind, *fields]] = machines
    assert kind == "build-machine"
    found = {str(field.head): field.tail for field in fields if isinstance(field, sexp.Pair)}
    found |= {str(field[0]): field[1:] for field in fields if isinstance(field, list)}
    assert found == {
        "name": "127.0.0.1",
        "port": 11022,
        "systems": ["x86_64-linux", "i686-linux"],
        "user": "offloading",
        "host-key": "ssh-ed25519 AAAAC3Nz",
        "private-key": "/var/lib/herdpy/keys/build-vm/id_ed25519",
        "parallel-builds": 2,
        "speed": 0.5,
    }


@needs_guile
@pytest.mark.parametrize(
    ("pieces", "is_there"),
    [
        ([service("#t", None)], True),
        ([service("#f", None)], False),
        ([service("#f", "stopped")], False),
        ([service("4711", "starting")], False),
        ([service("4711", "stopping")], False),
        ([reply("#f", "(error (version 0) service-not-found build-vm)")], False),
        ([reply("()")], False),
        ([b""], False),
        ([service("4711", "running")[:-30]], False),
        ([b"garbage"], False),
        ([b"(((("], False),
        ([b'(reply . "no list")'], False),
        ([b"#.(exit 3)"], False),
        ([bytes(range(256))], False),
        ([b"(" * 2_000_000], False),
    ],
)
def test_only_a_running_one_is(modules: Path, tmp_path: Path, pieces: list[bytes], is_there: bool) -> None:
    path = written(tmp_path / "build-vm.scm", tmp_path / "socket")
    with herdpy_says(tmp_path / "socket", pieces):
        assert bool(load(modules, path)) is is_there


@needs_guile
def test_an_answer_in_pieces_is_put_together(modules: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "build-vm.scm", tmp_path / "socket")
    answer = service("4711", "running")
    with herdpy_says(
        tmp_path / "socket", [answer[place : place + 100] for place in range(0, len(answer), 100)], pause=0.01
    ):
        assert load(modules, path)


@needs_guile
@pytest.mark.parametrize(
    "pieces", [[], [b"("] * 1000, [service("4711", "running")[:-1]]], ids=["mute", "slow", "unfinished"]
)
def test_without_an_answer_in_time_there_is_no_machine(modules: Path, tmp_path: Path, pieces: list[bytes]) -> None:
    path = written(tmp_path / "build-vm.scm", tmp_path / "socket")
    with herdpy_says(tmp_path / "socket", pieces, pause=0.05, hold=True):
        start = time.monotonic()
        assert load(modules, path) == []
        assert time.monotonic() - start < 30


@needs_guile
@pytest.mark.parametrize("left_behind", [False, True])
def test_without_herdpy_there_is_no_machine(modules: Path, tmp_path: Path, left_behind: bool) -> None:
    if left_behind:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
    assert load(modules, written(tmp_path / "build-vm.scm", tmp_path / "socket")) == []


@needs_guile
def test_a_herdpy_that_accepts_nobody_is_not_waited_for(modules: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(0)
        fillers = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(str(tmp_path / "socket"))
        try:
            assert load(modules, written(tmp_path / "build-vm.scm", tmp_path / "socket")) == []
        finally:
            for filler in fillers:
                filler.close()


@needs_guile
def test_odd_names_are_taken_literally(modules: Path, tmp_path: Path) -> None:
    directory = tmp_path / 'a "b" \\ %NAME% é'
    directory.mkdir()
    path = written(tmp_path / "build-vm.scm", directory / "socket", private_key=f"{directory}/key", name="a b")
    with herdpy_says(directory / "socket", [service("1", "running")]) as questions:
        [[_, *fields]] = load(modules, path)
    assert f"{directory}/key" in [field.tail for field in fields if isinstance(field, sexp.Pair)]
    assert b"(service #{a b}#)" in questions[0]


def test_a_host_key_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no SSH public key"):
        written(tmp_path / "build-vm.scm", tmp_path / "socket", host_key="")


@pytest.fixture
def step(tmp_path: Path) -> WriteDeclaration:
    ssh = tmp_path / "root/etc/ssh"
    ssh.mkdir(parents=True)
    (ssh / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA root@build-vm\n")
    return WriteDeclaration(
        path=str(tmp_path / "state/guix/build-vm.scm"),
        name="build-vm",
        port=11022,
        root=str(tmp_path / "root"),
        keys_directory="/var/lib/herdpy/keys/build-vm",
        systems=("x86_64-linux",),
        control_socket="/run/herdpy/socket",
        guix=True,
    )


async def test_the_declaration_is_written_whole_and_kept_up_to_date(step: WriteDeclaration, tmp_path: Path) -> None:
    await step.run(None)
    path = Path(step.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    first = path.stat().st_ino
    await step.run(None)
    assert path.stat().st_ino == first
    (tmp_path / "root/etc/ssh/ssh_host_ed25519_key.pub").write_text("ssh-ed25519 BBBB\n")
    await step.run(None)
    assert '"ssh-ed25519 BBBB"' in path.read_text() and path.stat().st_ino != first
    assert os.listdir(path.parent) == ["build-vm.scm"]


async def test_without_guix_nothing_is_written(step: WriteDeclaration, tmp_path: Path) -> None:
    await WriteDeclaration(**{field: getattr(step, field) for field in step.__struct_fields__} | {"guix": False}).run(
        None
    )
    assert not (tmp_path / "state").exists()


async def test_a_declaration_that_cannot_be_written_is_one_clear_line(step: WriteDeclaration, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StartFailure) as caught:
        await step.run(None)
    assert str(caught.value) == (
        f"cannot write {step.path}, the build machine's declaration for Guix: Not a directory: {tmp_path}/state/guix"
    )


PUBLIC = "(public-key \n  (ecc \n   (curve Ed25519)\n   (q #11AA#)\n   )\n  )\n"


def test_the_public_part_of_a_signing_key() -> None:
    assert public_part(f"(key-data\n {PUBLIC} (private-key (ecc (d #22BB#))))\n") == PUBLIC
    assert public_part("(key-data (public-key (ecc") is None


@given(st.text(alphabet="(public-key) #12"))
def test_any_text_has_a_balanced_public_part_or_none(text: str) -> None:
    part = public_part(text)
    assert part is None or (part.startswith("(public-key") and part.count("(") == part.count(")"))
