"""Credentials: whose they are, for how long, and what stands in the way."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.preparation.credentials import LARGEST, PlaceCredentials, RemoveCredentials
from herdpy.service import StartFailure

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
CONTEXT: Any = None
"""These steps ask nothing of it."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"\0the secret\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every user can pass through: pytest's are their owner's alone."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def placing(tmp_path: Path, user: str | None = None, **files: Path) -> PlaceCredentials:
    sources = tuple((name, str(path)) for name, path in files.items())
    return PlaceCredentials(directory=str(tmp_path / "credentials" / "a"), files=sources, user=user)


def seen(path: Path) -> tuple[int, int]:
    return stat.S_IMODE(path.lstat().st_mode), path.lstat().st_uid


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("user", [None, pytest.param("nobody", marks=needs_root), pytest.param("1", marks=needs_root)])
async def test_only_the_user_can_read_them(reachable: Path, secret: Path, user: str | None, umask: int) -> None:
    ours = os.umask(umask)
    try:
        await placing(reachable, user, one=secret, two=secret).run(CONTEXT)
    finally:
        os.umask(ours)
    directory = reachable / "credentials" / "a"
    uid = {None: os.geteuid(), "nobody": 65534, "1": 1}[user]
    assert seen(directory.parent) == (0o711 if os.geteuid() == 0 else 0o700, os.geteuid())
    assert seen(directory) == (0o700, uid)
    assert sorted(os.listdir(directory)) == ["one", "two"]
    assert seen(directory / "one") == (0o400, uid)
    assert (directory / "one").read_bytes() == b"\0the secret\n"
    assert os.listdir(directory.parent) == ["a"]


@needs_root
async def test_a_user_who_cannot_come_by_them_is_told_of(reachable: Path, secret: Path) -> None:
    state = reachable / "state"
    state.mkdir(mode=0o700)
    with pytest.raises(StartFailure) as failure:
        await placing(state, "nobody", one=secret).run(CONTEXT)
    where = f"{state}/credentials/a: only the owner of {state} can pass through that; chmod o+x {state}"
    assert str(failure.value).startswith(f"its user nobody cannot come by its credentials in {where}, or ")
    assert not (state / "credentials" / "a").exists()
    step = msgspec.structs.replace(placing(state, "nobody", one=secret), passes_everywhere=True)
    await step.run(CONTEXT)
    for mode in (0o701, 0o710):  # a group may be one of the user's
        state.chmod(mode)
        await placing(state, "nobody", one=secret).run(CONTEXT)
    state.chmod(0o700)
    os.chown(state, 65534, -1)
    await placing(state, "nobody", one=secret).run(CONTEXT)


async def test_they_are_placed_anew_and_removed(tmp_path: Path, secret: Path) -> None:
    directory = tmp_path / "credentials" / "a"
    await placing(tmp_path, one=secret, two=secret).run(CONTEXT)
    (directory / "mine").mkdir()
    (directory / "link").symlink_to(secret)
    secret.write_text("another")
    await placing(tmp_path, one=secret).run(CONTEXT)
    assert os.listdir(directory) == ["one"]
    assert (directory / "one").read_text() == "another"
    (directory / "link").symlink_to(tmp_path)
    remove = RemoveCredentials(directory=str(directory))
    await remove.run(CONTEXT)
    assert os.listdir(directory.parent) == []
    assert secret.exists()
    await remove.run(CONTEXT)


async def test_what_a_killed_supervisor_left_in_the_making_is_no_obstacle(tmp_path: Path, secret: Path) -> None:
    left = tmp_path / "credentials" / ".a"
    left.mkdir(parents=True, mode=0o700)
    left.parent.chmod(0o711)
    (left / "one").write_text("old")
    await placing(tmp_path, one=secret).run(CONTEXT)
    assert os.listdir(left.parent) == ["a"]


async def test_without_one_of_them_nothing_is_placed(tmp_path: Path, secret: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(StartFailure, match=f"cannot read the credential two from {missing}: No such file"):
        await placing(tmp_path, one=secret, two=missing).run(CONTEXT)
    assert not (tmp_path / "credentials").exists()


async def test_what_cannot_be_a_credential_is_told(tmp_path: Path, secret: Path) -> None:
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    large.write_bytes(bytes(LARGEST))
    with pytest.raises(StartFailure, match=f"credential one from {fifo}: it is no regular file"):
        await placing(tmp_path, one=fifo).run(CONTEXT)
    await placing(tmp_path, one=large).run(CONTEXT)
    with pytest.raises(StartFailure, match="larger than 1024 KiB altogether"):
        await placing(tmp_path, one=large, two=secret).run(CONTEXT)
    with pytest.raises(StartFailure, match="there is no user nosuchuser"):
        await placing(tmp_path, "nosuchuser", one=secret).run(CONTEXT)


@pytest.mark.parametrize("mode", [0o777, 0o730])
async def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path, secret: Path, mode: int) -> None:
    parent = tmp_path / "credentials"
    parent.mkdir()
    parent.chmod(mode)
    with pytest.raises(StartFailure, match=f"cannot place the credentials: {parent}: others can write to it"):
        await placing(tmp_path, one=secret).run(CONTEXT)
    assert os.listdir(parent) == []


async def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path, secret: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "credentials").symlink_to(elsewhere)
    with pytest.raises(StartFailure, match="cannot place"):
        await placing(tmp_path, one=secret).run(CONTEXT)
    assert os.listdir(elsewhere) == []
