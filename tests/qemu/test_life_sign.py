"""Telling a guest that is slow from one that does not boot."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from herdpy.qemu.life_sign import LifeSign, are_words_of_the_guest
from herdpy.qemu.qmp import connect
from herdpy.service import StartFailure
from tests.qemu.secrets.conftest import Remembering
from tests.qemu.test_qmp import HALT, Machine, boot_sector, needs_qemu, start  # noqa: F401 - a fixture

FIRMWARE = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n"
BOOTING = FIRMWARE + b"Booting from ROM...\r\n"


class Answers(msgspec.Struct, frozen=True):
    """A readiness step that hears of the guest, and is done, when a test says so."""

    hears: trio.Event
    done: trio.Event
    failure: str | None = None

    async def run(self, context: object, heard: Callable[[], None]) -> None:
        await self.hears.wait()
        heard()
        await self.done.wait()
        if self.failure is not None:
            raise StartFailure(self.failure)


@pytest.mark.parametrize(
    ("console", "speaks"),
    [
        (b"", False),
        (b"\r\n\x1b[2J", False),
        (FIRMWARE, False),
        (BOOTING, False),
        (BOOTING + b"\x1bc\x1b[?7l\x1b[2J\r\n", False),
        (
            FIRMWARE + b"Booting from Hard Disk...\r\nBoot failed: not a bootable disk\r\n\r\nBooting from ROM...\r\n",
            False,
        ),
        (BOOTING + b"[    0.000000] Linux version 6.1.0", True),
        (b"GNU Mach 1.8", True),
    ],
)
def test_the_firmware_is_no_guest(console: bytes, speaks: bool) -> None:
    assert are_words_of_the_guest(console) is speaks


@pytest.fixture
def console(tmp_path: Path) -> Path:
    path = tmp_path / "console.log"
    path.write_bytes(BOOTING)
    return path


def step(console: Path, answers: Answers, patience: float = 1e6, monitor: str = "/nonexistent/qmp") -> LifeSign:
    return LifeSign(readiness=answers, console_log=str(console), monitor=monitor, patience=patience)


async def test_silence_ends_with_the_patience(console: Path) -> None:
    with trio.fail_after(30), pytest.raises(StartFailure, match=r"the guest gave no sign of life within 0\.2 s"):
        await step(console, Answers(trio.Event(), trio.Event()), 0.2).run(Remembering())


async def test_a_word_on_the_console_gives_it_all_the_time(console: Path, nursery: trio.Nursery) -> None:
    answers = Answers(trio.Event(), trio.Event())
    with console.open("ab") as log:
        log.write(b"fsck: checking\r\n")
    with trio.fail_after(30):
        nursery.start_soon(lapse, answers)
        await step(console, answers, 0.5).run(Remembering())


async def test_a_word_that_comes_later_is_seen(console: Path, nursery: trio.Nursery) -> None:
    answers = Answers(trio.Event(), trio.Event())
    one = step(console, answers)
    with trio.fail_after(30):
        nursery.start_soon(one.run, Remembering())
        sees = trio.Event()

        async def see() -> None:
            assert await one._sees_words()
            sees.set()

        nursery.start_soon(see)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not sees.is_set()
        with console.open("ab") as log:
            log.write(b"fsck: checking\r\n")
        await sees.wait()
        nursery.cancel_scope.cancel()


async def test_what_the_other_step_hears_gives_it_all_the_time(console: Path, nursery: trio.Nursery) -> None:
    answers = Answers(trio.Event(), trio.Event())
    answers.hears.set()
    with trio.fail_after(30):
        nursery.start_soon(lapse, answers)
        await step(console, answers, 0.2).run(Remembering())


async def test_the_other_steps_failure_is_told_as_it_is(console: Path) -> None:
    answers = Answers(trio.Event(), trio.Event(), "what answers is no secret service")
    answers.hears.set()
    answers.done.set()
    with trio.fail_after(30), pytest.raises(StartFailure, match="what answers is no secret service"):
        await step(console, answers).run(Remembering())


async def lapse(answers: Answers) -> None:
    """Let the other step be done only after the patience, which is of no more importance by then."""
    await trio.sleep(1)
    answers.hears.set()
    answers.done.set()


@needs_qemu
async def test_a_write_to_the_disk_is_a_sign_and_a_read_is_none(start, tmp_path: Path, console: Path) -> None:  # noqa: F811
    machine: Machine = await start(*boot_sector(tmp_path, HALT))
    answers = Answers(trio.Event(), trio.Event())
    one = step(console, answers, monitor=machine.monitor)
    with trio.fail_after(60):
        async with connect(machine.events, wait=True) as other, trio.open_nursery() as nursery:
            sees = trio.Event()

            async def see() -> None:
                assert await one._sees_a_write()
                sees.set()

            nursery.start_soon(see)
            (disk,) = await other.execute("query-block")
            for command in ("read 0 512", "write 0 512"):
                assert not sees.is_set()
                # Until it watches: its own commands come before what happens to the disk.
                await trio.testing.wait_all_tasks_blocked(0.5)
                line = f'qemu-io {disk["device"]} "{command}"'
                await other.execute("human-monitor-command", {"command-line": line})
            await sees.wait()
