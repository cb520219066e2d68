"""The monitor of a real QEMU without a guest, or with a few bytes of one; and of a server that says what QEMU might."""

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from herdpy.qemu.qmp import MonitorClosedError, Powerdown, QMPError, Watch, connect
from herdpy.service import End, StartFailure

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")


class Remembering:
    """The part of a context that a monitor's steps use."""

    def __init__(self) -> None:
        self.details: dict[str, list[str | None]] = {}

    def detail(self, key: str, value: str | None) -> None:
        self.details.setdefault(key, []).append(value)


@pytest.fixture
def context() -> Remembering:
    return Remembering()


class Machine:
    def __init__(self, directory: Path, process: trio.Process) -> None:
        self.monitor, self.events, self.process = str(directory / "qmp"), str(directory / "events"), process


@pytest.fixture
async def start(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Callable[..., Awaitable[Machine]]]:
    """Starts QEMU with two monitors and the given options; ends it in the end."""
    processes = []

    async def start(*options: str) -> Machine:
        monitors = [
            word
            for name in ("qmp", "events")
            for word in (
                *("-chardev", f"socket,id={name},path={tmp_path}/{name},server=on,wait=off"),
                *("-mon", f"chardev={name},mode=control"),
            )
        ]
        process = await trio.lowlevel.open_process(
            [
                QEMU,
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-accel",
                "tcg",
                "-m",
                "32",
                *monitors,
                *options,
            ],
            stdin=subprocess.DEVNULL,
        )
        processes.append(process)
        return Machine(tmp_path, process)

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def boot_sector(tmp_path: Path, code: bytes) -> tuple[str, ...]:
    """A disk that runs ``code`` (16-bit, at 0x7c00), as options of QEMU."""
    disk = tmp_path / "disk"
    disk.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    return ("-M", "pc", "-no-reboot", "-drive", f"file={disk},format=raw,if=ide,snapshot=on")


HALT = b"\xfa\xf4\xeb\xfd"  # cli; hlt; and again
REBOOT = b"\xb0\xfe\xe6\x64" + HALT  # out 0x64, 0xfe: the keyboard controller pulls the reset line
POWER_OFF = (
    # The PM1a control block's place is QEMU's for "pc": I/O port 0x604; SLP_EN (bit 13), type 0.
    b"\xba\x04\x06" + b"\xb8\x00\x20" + b"\xef" + HALT
)
PANIC = b"\xba\x05\x05" + b"\xb0\x01" + b"\xee" + HALT  # pvpanic's port 0x505: the bit "panicked"


@needs_qemu
async def test_commands_are_answered_and_refusals_are_errors(start) -> None:
    machine = await start("-M", "none", "-S")
    with trio.fail_after(30):
        async with connect(machine.monitor, wait=True) as monitor:
            assert (await monitor.execute("query-status"))["status"] == "prelaunch"
            assert await monitor.execute("human-monitor-command", {"command-line": "info name"}) == ""
            with pytest.raises(QMPError, match=r"QEMU refused no-such-command: .*not.* found"):
                await monitor.execute("no-such-command")
            await monitor.execute("cont")
            await monitor.execute("stop")
            assert [(await anext(monitor))["event"] for _ in range(2)] == ["RESUME", "STOP"]


@needs_qemu
async def test_a_qemu_that_ends_closes_the_monitor(start) -> None:
    machine = await start("-M", "none")
    with trio.fail_after(30):
        async with connect(machine.monitor, wait=True) as monitor:
            await monitor.execute("query-status")
            machine.process.send_signal(signal.SIGTERM)
            assert [event["event"] async for event in monitor] == ["SHUTDOWN"]
            with pytest.raises(MonitorClosedError):
                await monitor.execute("query-status")


@needs_qemu
async def test_a_cancelled_wait_for_events_loses_none(start) -> None:
    machine = await start("-M", "none", "-S")
    with trio.fail_after(30):
        async with connect(machine.monitor, wait=True) as monitor:
            with trio.move_on_after(0.05):
                await anext(monitor)
            async with connect(machine.events) as other:
                await other.execute("cont")
            assert (await anext(monitor))["event"] == "RESUME"


@needs_qemu
@pytest.mark.parametrize(
    ("code", "options", "end"),
    [
        (REBOOT, (), End(reason="the guest rebooted")),
        (POWER_OFF, (), End(reason="the guest powered itself off", wanted=True)),
        (PANIC, ("-device", "pvpanic"), End(reason="the guest panicked")),
        (PANIC, ("-device", "pvpanic", "-action", "panic=pause"), End(reason="the guest panicked")),
    ],
    ids=["reboot", "power-off", "panic", "panic-pauses"],
)
async def test_how_the_guest_ended_is_seen_and_qemu_ends(start, context, tmp_path, code, options, end) -> None:
    machine = await start(*boot_sector(tmp_path, code), *options)
    with trio.fail_after(60):
        assert await Watch(machine.events).run(context) == end
        await machine.process.wait()


@needs_qemu
async def test_an_end_from_the_host_says_nothing(start, context, tmp_path) -> None:
    machine = await start(*boot_sector(tmp_path, HALT))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def terminate() -> None:
                async with connect(machine.monitor, wait=True):
                    machine.process.terminate()

            nursery.start_soon(terminate)
            assert await Watch(machine.events).run(context) is None


@needs_qemu
async def test_a_panic_before_anyone_watched_is_seen(start, context, tmp_path) -> None:
    machine = await start(*boot_sector(tmp_path, PANIC), "-device", "pvpanic", "-action", "panic=pause")
    with trio.fail_after(60):
        async with connect(machine.monitor, wait=True) as monitor:
            while (await monitor.execute("query-status"))["status"] != "guest-panicked":
                await trio.sleep(0.02)
        assert await Watch(machine.events).run(context) == End(reason="the guest panicked")
        await machine.process.wait()


@needs_qemu
async def test_the_power_button_is_pressed_until_qemu_is_gone(start, context, tmp_path) -> None:
    # A guest that enables ACPI's power button (bit 8 of I/O port 0x602), polls its state (bit 8 of 0x600, cleared by
    # writing it), and powers off when it has seen it twice. QEMU does not latch a press while the button is disabled.
    code = b"\xfa" + b"\xba\x02\x06" + b"\xb8\x00\x01" + b"\xef"  # cli; dx = 0x602; ax = 0x100; out dx, ax
    code += b"\xb9\x02\x00" + b"\xba\x00\x06"  # cx = 2; dx = 0x600
    code += b"\xed" + b"\xf6\xc4\x01" + b"\x74\xfa"  # in ax, dx; test ah, 1; again while zero
    code += b"\xb8\x00\x01" + b"\xef" + b"\x49" + b"\x75\xf3"  # clear it; dec cx; again while not zero
    code += POWER_OFF
    machine = await start(*boot_sector(tmp_path, code))
    with trio.fail_after(60):
        async with connect(machine.monitor, wait=True) as monitor:
            while (await monitor.execute("query-status"))["status"] != "running":
                await trio.sleep(0.02)
        await Powerdown(machine.monitor, interval=0.3).run(context)
        await machine.process.wait()


@needs_qemu
async def test_a_guest_that_does_not_run_is_not_asked(start, context) -> None:
    machine = await start("-M", "none", "-S")
    with trio.fail_after(30):
        async with connect(machine.monitor, wait=True):
            pass
        await Powerdown(machine.monitor).run(context)
        await machine.process.wait()


@needs_qemu
async def test_a_deaf_guest_is_left_to_the_signal(start, context, tmp_path) -> None:
    machine = await start(*boot_sector(tmp_path, HALT))
    with trio.fail_after(30):
        async with connect(machine.monitor, wait=True):
            pass
        with trio.move_on_after(1) as scope:
            await Powerdown(machine.monitor, interval=0.2).run(context)
        assert scope.cancelled_caught and machine.process.poll() is None
        async with connect(machine.monitor) as monitor:
            assert (await monitor.execute("query-status"))["status"] == "running"


async def test_a_button_that_is_not_there_is_told_at_once(context, tmp_path) -> None:
    with (
        trio.fail_after(5),
        pytest.raises(StartFailure, match=r"cannot press the guest's power button: .*No such file"),
    ):
        await Powerdown(str(tmp_path / "qmp")).run(context)


@needs_qemu
async def test_a_qemu_that_is_ending_anyway_is_no_failure(start, context, tmp_path) -> None:
    machine = await start(*boot_sector(tmp_path, HALT))
    with trio.fail_after(30):
        async with connect(machine.events, wait=True):
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Powerdown(machine.monitor).run, context)
            await trio.testing.wait_all_tasks_blocked(0.05)
            machine.process.terminate()


class Pretending:
    """A monitor that answers query-status with a state that we cannot bring QEMU into, and takes ``quit``."""

    def __init__(self, path: Path, states: list[str], events: list[bytes]) -> None:
        self.path, self.states, self.events, self.commands = path, states, events, []

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self.path))
            listener.listen(1)
            task_status.started()
            connection, _ = await listener.accept()
            stream = trio.SocketStream(connection)
            await stream.send_all(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
            async for line in stream:
                for request in map(json.loads, line.splitlines()):
                    command = request["execute"]
                    self.commands.append(command)
                    answer = {"status": self.states[0]} if command == "query-status" else {}
                    # An event may come between a command and its answer, in pieces, and after lines that are no JSON.
                    await stream.send_all(b'garbage\r\n[1]\r\n{"event": "NIC_RX_FILTER_CHANGED", "timestamp": {}}\r\n')
                    text = json.dumps({"return": answer, "id": request["id"]}).encode() + b"\r\n"
                    for place in range(0, len(text), 7):
                        await stream.send_all(text[place : place + 7])
                    if command == "quit":
                        await stream.aclose()
                        return
                    if command == "query-status" and self.events:
                        self.states = self.states[1:] or self.states
                        await stream.send_all(self.events.pop(0) + b"\r\n")


@pytest.mark.parametrize("late", [False, True])
async def test_an_error_of_the_accelerator_ends_qemu(context, tmp_path, nursery, late: bool) -> None:
    pretending = Pretending(
        tmp_path / "events",
        ["running", "internal-error"] if late else ["internal-error"],
        [b'{"event": "STOP", "timestamp": {}}'] if late else [],
    )
    nursery.start_soon(pretending.run)
    with trio.fail_after(10):
        end = await Watch(str(tmp_path / "events")).run(context)
    assert end == End(reason="QEMU stopped the guest: internal error of the accelerator")
    assert pretending.commands[-1] == "quit"


async def test_a_full_disk_is_told_while_it_lasts(context, tmp_path, nursery) -> None:
    pretending = Pretending(
        tmp_path / "events",
        ["running", "io-error", "running"],
        [
            b'{"event": "STOP", "timestamp": {}}',
            b'{"event": "RESUME", "timestamp": {}}',
            b'{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": {}}',
        ],
    )
    nursery.start_soon(pretending.run)
    with trio.fail_after(10):
        end = await Watch(str(tmp_path / "events")).run(context)
    assert end == End(reason="the guest powered itself off", wanted=True)
    words = "QEMU paused the guest: its disk cannot be written; is the file system full?"
    assert context.details["paused"] == [None, words, None]


async def test_what_is_no_monitor_is_told_and_harms_nobody(context, tmp_path, nursery) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b'{"hello": "world"}\n')
        await stream.receive_some(1)

    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "events"))
        listener.listen(1)
        nursery.start_soon(trio.serve_listeners, greet, [trio.SocketListener(listener)])
        with trio.fail_after(10):
            assert await Watch(str(tmp_path / "events")).run(context) is None
    assert context.details["monitor"] == [
        f"cannot watch the guest: what listens at {tmp_path}/events is not a QEMU monitor"
    ]


async def test_a_monitor_that_serves_another_is_not_waited_for_without_limit(tmp_path, autojump_clock) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "qmp"))
        listener.listen(1)
        with pytest.raises(QMPError, match="did not greet within 30 s; is another client connected to it"):
            async with connect(str(tmp_path / "qmp")):
                pass
