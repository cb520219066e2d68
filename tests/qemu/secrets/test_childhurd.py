"""Both ends of the secret service over TCP: what we send, and the program for guests that are no Guix System."""

import math
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import herdpy.qemu
from herdpy.qemu.secrets import SendSecretsOverTCP, message
from tests.qemu.secrets.conftest import Remembering

GUEST_END = Path(herdpy.qemu.__file__).parent / "childhurd" / "secret-service"

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")

PART = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda part: part not in (".", "..") and not part.startswith(".herdpy-") and len(os.fsencode(part)) <= 60
)
TREES = st.dictionaries(
    st.lists(PART, min_size=1, max_size=3).map("/".join),
    st.tuples(st.binary(max_size=3000), st.sampled_from([0o600, 0o644, 0o400, 0o755, 0o4711, 0])),
    max_size=6,
).filter(
    # No file is a directory of another.
    lambda tree: not any(other.startswith(f"{name}/") for name in tree for other in tree)
)


@asynccontextmanager
async def guest(root: Path, *options: str) -> AsyncIterator[tuple[int, trio.Process]]:
    """The guest's end, and the port that it has chosen."""
    process = await trio.lowlevel.open_process(
        ["perl", str(GUEST_END), "--port", "0", "--root", str(root), *options], stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        said = b""
        while not said.endswith(b"\n"):
            said += await process.stderr.receive_some(1)
        assert said.startswith(b"secret-service: waiting at port "), said
        yield int(said.split()[-1]), process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(0o600)
            found[str(path.relative_to(root))] = (path.read_bytes(), mode)
            path.chmod(mode)
    return found


def plant(root: Path, tree: dict[str, tuple[bytes, int]]) -> None:
    root.mkdir()
    for name, (contents, mode) in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
        path.chmod(mode)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
async def test_whatever_tree_is_sent_is_what_arrives(tree: dict[str, tuple[bytes, int]]) -> None:
    if os.geteuid() != 0:
        tree = {name: (contents, mode | 0o400) for name, (contents, mode) in tree.items()}
    with tempfile.TemporaryDirectory() as directory:
        sent, arrived = Path(directory, "sent"), Path(directory, "arrived")
        plant(sent, tree)
        arrived.mkdir()
        with trio.fail_after(60):
            async with guest(arrived) as (port, process):
                await SendSecretsOverTCP(port, str(sent)).run(Remembering())
                assert await process.wait() == 0
        assert files(arrived) == tree


async def test_fifty_megabytes_and_a_difficult_name(context, tmp_path: Path) -> None:
    tree = {"etc/much": (os.urandom(50_000_000), 0o600), 'a "quoted" \\ näme/ß (1)\n': (b"\0)))((\xff", 0o640)}
    plant(tmp_path / "sent", tree)
    (tmp_path / "arrived").mkdir()
    with trio.fail_after(120):
        async with guest(tmp_path / "arrived") as (port, process):
            await SendSecretsOverTCP(port, str(tmp_path / "sent")).run(context)
            assert await process.wait() == 0
    assert files(tmp_path / "arrived") == tree


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.0\r\n\r\n)))",
        b'(secrets (version 0) (files (("/etc/x" 10 33188))))short',
        b'(secrets (version 0) (files (("/../x" 1 33188))))x',
        b'(secrets (version 0) (files (("/etc/x" 99999999999 33188))))x',
        b"(" * 1_100_000,
    ],
)
async def test_who_says_something_else_installs_nothing_and_the_next_one_is_heard(
    context, tmp_path: Path, said: bytes
) -> None:
    plant(tmp_path / "sent", {"etc/key": (b"key", 0o600)})
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    with trio.fail_after(60):
        async with guest(arrived) as (port, process):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(said)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
            assert list(arrived.iterdir()) == []
            await SendSecretsOverTCP(port, str(tmp_path / "sent")).run(context)
            assert await process.wait() == 0
    assert files(arrived) == {"etc/key": (b"key", 0o600)}


async def test_what_cannot_be_written_is_never_called_installed(context, tmp_path: Path) -> None:
    plant(tmp_path / "sent", {"etc/key": (b"key", 0o600)})
    (tmp_path / "arrived").write_text("a file where a directory should be")
    async with guest(tmp_path / "arrived") as (port, process):
        assert process.stderr is not None
        async with trio.open_nursery() as nursery:
            over = trio.Event()

            async def send() -> None:
                await SendSecretsOverTCP(port, str(tmp_path / "sent")).run(context)
                over.set()

            nursery.start_soon(send)
            said = b""
            with trio.fail_after(60):
                while b"cannot make the directory" not in said:
                    said += await process.stderr.receive_some()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not over.is_set()
            assert process.returncode is None
            nursery.cancel_scope.cancel()


async def test_a_boot_goes_on_without_secrets(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with guest(tmp_path, "--patience", "1") as (_, process):
            assert await process.wait() != 0


def test_both_ends_agree_on_what_is_too_much() -> None:
    said = GUEST_END.read_text()
    limits = {
        name: math.prod(map(int, re.search(rf"my \${name}\s*= ([0-9 *]+);", said)[1].split("*")))  # type: ignore[index]
        for name in ("HEADER_MAX", "PAYLOAD_MAX")
    }
    assert limits == {"HEADER_MAX": message.LONGEST_LIST, "PAYLOAD_MAX": message.LARGEST}
