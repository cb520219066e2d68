"""What was written between the reading of the declarations and the beginning of the watch is not missed."""

import os
import time
from pathlib import Path

import pytest
import trio

from herdpy.supervisor.reload import State, state_of
from herdpy.supervisor.watching import watch


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "services"
    path.mkdir()
    (path / "service.toml").touch()
    return path


def is_old(path: Path) -> float:
    """Seconds since the epoch, of a moment after which nothing has happened there."""
    return max(os.stat(one).st_ctime for one in (path, *path.iterdir())) + 1


async def is_told(layer: Path, before: State | None, since: float, patience: float = 60) -> bool:
    """Whether something is told that has happened before the watch began: sooner than what happens after it."""
    told, receive = trio.open_memory_channel[str](10)

    async def act() -> None:
        await told.send("act")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, {str(layer): before}, since, act)
        with trio.move_on_after(patience) as scope:
            await receive.receive()
        if not scope.cancelled_caught:
            nursery.cancel_scope.cancel()
            return True
        with trio.fail_after(60):  # it does watch
            (layer / "later.toml").touch()
            await receive.receive()
        nursery.cancel_scope.cancel()
        return False


async def test_nothing_has_happened(layer: Path) -> None:
    assert not await is_told(layer, state_of(str(layer)), is_old(layer), patience=2)


async def test_it_was_away_and_is_back(layer: Path) -> None:
    """Moved, it has the times that it had."""
    since = is_old(layer)
    aside = layer.with_name("aside")
    layer.rename(aside)
    before = state_of(str(layer))
    assert before is None
    aside.rename(layer)
    assert await is_told(layer, before, since)


async def test_it_is_another(layer: Path) -> None:
    since = is_old(layer)
    before = state_of(str(layer))
    other = layer.with_name("other")
    other.mkdir()
    layer.rename(layer.with_name("aside"))
    other.rename(layer)
    assert await is_told(layer, before, since)


async def test_a_link_leads_elsewhere(layer: Path) -> None:
    link = layer.with_name("link")
    link.symlink_to(layer)
    since = is_old(layer)
    before = state_of(str(link))
    other = layer.with_name("other")
    other.mkdir()
    link.unlink()
    link.symlink_to(other)
    assert await is_told(link, before, since)


async def test_a_file_is_written_in_place_or_moved_in(layer: Path) -> None:
    before = state_of(str(layer))
    since = time.time()
    (layer / "gone").symlink_to(layer / "nowhere")  # it hides nothing that comes after it
    assert await is_told(layer, before, since + 60)
    before = state_of(str(layer))
    with (layer / "service.toml").open("a") as file:
        file.write("x")
    assert await is_told(layer, before, since)
