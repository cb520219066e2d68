"""Watching a path, on real files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herdpy.watch import Watch, watching

PATIENCE = 60.0


def inotify_descriptors() -> list[Path]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(entry) == "anon_inode:inotify":
                found.append(entry)
        except OSError:
            continue
    return found


def watched() -> int:
    """So many files and directories are watched (proc(5), /proc/pid/fdinfo)."""
    texts = (Path(f"/proc/self/fdinfo/{entry.name}").read_text() for entry in inotify_descriptors())
    return sum(line.startswith("inotify wd:") for text in texts for line in text.splitlines())


async def content(path: Path, wanted: str) -> None:
    """Wait until a file has a content."""

    def read() -> str | None:
        try:
            return path.read_text()
        except OSError:
            return None

    with watching(str(path)) as watch:
        while await watch.look(read) != wanted:
            await watch.change()


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def replace(path: Path) -> None:
    beside = path.with_name("beside")
    write(beside)
    beside.rename(path)


def write_in_two_parts(path: Path) -> None:
    path.write_text("xy")
    os.truncate(path, 1)


def move_here(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere"
    write(elsewhere)
    elsewhere.rename(path)


def move_the_directory_here(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere"
    write(elsewhere / path.parent.name / path.name)
    elsewhere.rename(path.parent.parent)


def make_a_link(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere"
    write(elsewhere / path.name)
    path.parent.parent.mkdir()
    path.parent.symlink_to(elsewhere)


def make_the_target_of_a_link(path: Path) -> None:
    target = path.parents[2] / "elsewhere" / "deep"
    path.parent.parent.mkdir()
    path.parent.symlink_to("../elsewhere/./deep/../deep")
    write(target / path.name)


def move_the_target_of_a_link(path: Path) -> None:
    make_a_link(path)
    elsewhere = path.parents[2] / "elsewhere"
    elsewhere.rename(elsewhere.with_name("old"))
    write(elsewhere / path.name)


def move_the_old_directory_away(path: Path) -> None:
    write(path, "old")
    path.parent.parent.rename(path.parents[2] / "old")
    write(path)


@pytest.mark.parametrize(
    "act",
    [
        write,
        replace,
        write_in_two_parts,
        move_here,
        move_the_directory_here,
        make_a_link,
        make_the_target_of_a_link,
        move_the_target_of_a_link,
        move_the_old_directory_away,
    ],
)
async def test_whatever_way_a_file_comes_it_is_seen(
    tmp_path: Path, nursery: trio.Nursery, act: Callable[[Path], None]
) -> None:
    path = tmp_path / "one" / "two" / "file"
    if act in (replace, write_in_two_parts, move_here):
        path.parent.mkdir(parents=True)
        if act is not move_here:
            path.touch()
    with trio.fail_after(PATIENCE):
        with watching(str(path)) as watch:
            await watch.look(lambda: None)
            assert not await is_told(watch)
            act(path)
            await watch.change()
            while not await watch.look(lambda: path.exists() and path.read_text() == "x"):
                await watch.change()


async def is_told(watch: Watch) -> bool:
    with trio.move_on_after(0.05):
        await watch.change()
        return True
    return False


async def test_other_files_of_the_directory_wake_nobody(tmp_path: Path) -> None:
    with watching(str(tmp_path / "file")) as watch, watching(str(tmp_path / "other")) as other:
        await watch.look(lambda: None)
        await other.look(lambda: None)
        (tmp_path / "other").touch()
        with trio.fail_after(PATIENCE):
            await other.change()
        assert not await is_told(watch)


async def test_a_thousand_watches_are_one_instance_and_nothing_is_left(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(content, tmp_path / f"{number}" / "file", "x")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(inotify_descriptors()) == 1
        for number in range(1000):
            write(tmp_path / f"{number}" / "file")
        with trio.fail_after(60):
            while len(nursery.child_tasks) > 0:
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert watched() == 0


async def test_a_look_that_hangs_is_left_to_itself(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with watching(str(fifo)) as watch:
        with trio.move_on_after(0.05):
            await watch.look(fifo.read_text)
    fifo.write_text("")
    with trio.fail_after(PATIENCE):
        while watched():
            await trio.testing.wait_all_tasks_blocked(0.01)


def test_a_second_run_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for _ in range(2):
        trio.run(content, tmp_path / "file", "x")
        assert inotify_descriptors() == []


def test_a_way_that_cannot_be_gone_leads_to_nothing_yet(tmp_path: Path) -> None:
    """A name that no file system takes is as one that is not there: who waits is told of what is above it."""

    async def main() -> None:
        with watching(str(tmp_path / "one" / ("x" * 300) / "file")) as watch:
            assert await watch.look(lambda: "seen") == "seen"
            (tmp_path / "one").mkdir()
            with trio.fail_after(PATIENCE):
                await watch.change()
            assert await watch.look(lambda: "again") == "again"

    trio.run(main)


NAMES = st.sampled_from(["one", "one/two", "one/two/file", "elsewhere", "elsewhere/two"])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(["mkdir", "write", "remove", "rename", "link"]), NAMES, NAMES), max_size=12))
def test_nothing_that_happens_is_missed(tmp_path: Path, acts: list[tuple[str, str, str]]) -> None:
    """Whatever happens before and while it is waited for, a file that is there in the end is seen."""
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    path = tmp_path / "one" / "two" / "file"

    def act(kind: str, one: Path, two: Path) -> None:
        try:
            match kind:
                case "mkdir":
                    one.mkdir()
                case "write":
                    one.write_text("")
                case "remove":
                    shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
                case "rename":
                    one.rename(two)
                case "link":
                    one.symlink_to(two)
        except OSError:
            pass

    def end(path: Path) -> None:
        """Whatever is there, have the file there, through links if they lead to directories."""
        for part in (path.parent.parent, path.parent, path):
            if (part.is_symlink() and not part.is_dir()) or part.is_file():
                part.unlink()
        if path.is_dir():
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        write(path, "the end")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(content, path, "the end")
            for kind, one, two in acts:
                act(kind, tmp_path / one, tmp_path / two)
                await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(PATIENCE):
                end(path)
                while nursery.child_tasks:
                    await trio.testing.wait_all_tasks_blocked(0.002)

    trio.run(main)
