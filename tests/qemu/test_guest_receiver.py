"""The guest's end of the secrets: the program that runs in the image, run here on a directory of its own."""

import base64
import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from herdpy.qemu.image import GUEST

RECEIVER = Path(GUEST) / "overlay" / "usr" / "lib" / "herdpy" / "secrets"

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")

KEY = b"not a key\n\0\xff"


def payload(*files: tuple[str, bytes, int]) -> bytes:
    listed = " ".join(f'("{name}" {len(contents)} {mode})' for name, contents, mode in files)
    return f"(secrets (version 0) (files ({listed})))".encode() + b"".join(contents for _, contents, _ in files)


def session(nonce: str, message: bytes, *, checksum: str | None = None) -> bytes:
    encoded = base64.b64encode(message).decode()
    lines = [
        f"hello {nonce}",
        f"begin {nonce} {checksum or hashlib.sha256(message).hexdigest()}",
        *(f"data {encoded[start : start + 76]}" for start in range(0, len(encoded), 76)),
        f"end {nonce}",
        "",
    ]
    return "\n".join(lines).encode()


def receive(root: Path, sent: bytes) -> list[str]:
    """What the receiver answers to all this."""
    completed = subprocess.run(
        ["perl", RECEIVER],
        input=sent,
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "HERDPY_SECRETS_ROOT": str(root)},
    )
    assert completed.stderr == b""
    return completed.stdout.decode().splitlines()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_files_arrive_with_their_bytes_and_modes(tmp_path: Path) -> None:
    message = payload(("/etc/ssh/key", KEY, 0o100600), ("etc/ssh/key.pub", b"", 0o100644))
    assert receive(tmp_path, session("n1", message)) == ["ready n1", "installed n1 2"]
    assert (tmp_path / "etc/ssh/key").read_bytes() == KEY
    assert stat.S_IMODE((tmp_path / "etc/ssh/key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "etc/ssh/key.pub").stat().st_mode) == 0o644


def test_no_secrets_are_secrets_too(tmp_path: Path) -> None:
    assert receive(tmp_path, session("n", payload())) == ["ready n", "installed n 0"]


def test_a_second_session_replaces_the_files(tmp_path: Path) -> None:
    first, second = payload(("a", b"old, and longer", 0o100644)), payload(("a", b"new", 0o100600))
    assert receive(tmp_path, session("n1", first) + session("n2", second))[-1] == "installed n2 1"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert files(tmp_path) == ["a"]


@pytest.mark.parametrize("cut", [5, 15, 60, 100, 150])
def test_an_aborted_session_installs_nothing_and_does_not_spoil_the_next(tmp_path: Path, cut: int) -> None:
    message = payload(("a", b"x" * 200, 0o100644))
    answers = receive(tmp_path, session("n1", message)[:cut] + b"\n" + session("n2", message))
    assert answers[-2:] == ["ready n2", "installed n2 1"]


def test_a_wrong_checksum_installs_nothing(tmp_path: Path) -> None:
    message = payload(("a", b"x", 0o100644))
    answers = receive(tmp_path, session("n", message, checksum="0" * 64))
    assert answers == ["ready n", "failed n the checksum does not match"]
    assert files(tmp_path) == []


def test_the_end_of_another_session_ends_nothing(tmp_path: Path) -> None:
    message = payload(("a", b"x", 0o100644))
    assert receive(tmp_path, session("n1", message).replace(b"end n1", b"end n2")) == ["ready n1"]
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["../up", "etc/../../up", "etc/..", "", "/", "etc//key", "./a", "etc/"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    answers = receive(root, session("n", payload(("first", b"1", 0o100644), (name, b"2", 0o100644))))
    assert answers == ["ready n", "failed n a file has a bad name"]
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"(secrets (version 1) (files ()))",
        b'(secrets (version 0) (files (("a" 5 33188))))1234',
        payload() + b"more",
    ],
)
def test_a_message_that_is_not_well_formed_is_refused(tmp_path: Path, message: bytes) -> None:
    assert receive(tmp_path, session("n", message))[-1].startswith("failed n ")
    assert files(tmp_path) == []


def test_quotes_and_backslashes_in_names_are_unescaped(tmp_path: Path) -> None:
    receive(tmp_path, session("n", payload((r"a\"b\\c", b"x", 0o100644))))
    assert files(tmp_path) == ['a"b\\c']


def test_garbage_is_skipped_also_when_it_is_long(tmp_path: Path) -> None:
    message = payload(("a", b"x", 0o100644))
    garbage = b"\0\xff\r\n\nhello\nend\ndata x\n" + b"y" * 200_000 + b"hello early\n" + b"z" * 5000 + b"\nhello  n\n"
    assert receive(tmp_path, garbage + session("n", message)) == ["ready n", "installed n 1"]


def test_a_file_that_cannot_be_written_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file where a directory should be")
    answer = receive(tmp_path, session("n", payload(("etc/key", b"x", 0o100644))))[-1]
    assert answer.startswith("failed n cannot make the directory ")
    assert files(tmp_path) == ["etc"]
