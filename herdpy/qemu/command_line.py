"""The command line of a virtual machine: from what is wanted to the list that is executed, and nothing else.

One option and its argument stand on one line, in the order of qemu-system-x86_64(1).
"""

import datetime
from typing import Literal

import msgspec

SECRETS_PORT = "org.herdpy.secrets.0"
"""The virtio-serial port over which the guest takes its secrets."""
AGENT_PORT = "org.qemu.guest_agent.0"
"""The virtio-serial port of QEMU's guest agent (qemu-ga(8))."""
VNC_PORTS = (5900, 5999)
"""The screen of a ``pc`` is at the first of these that is free."""
VNC = f"127.0.0.1:0,to={VNC_PORTS[1] - VNC_PORTS[0]}"


class Rooms(msgspec.Struct, frozen=True, kw_only=True):
    """Where one machine keeps its sockets and files; the directory belongs to the user that QEMU runs as."""

    directory: str
    console_log: str

    @property
    def monitor(self) -> str:
        """The QMP socket that commands are given through; QEMU serves one client at a time."""
        return f"{self.directory}/qmp"

    @property
    def events(self) -> str:
        """A second QMP socket, on which herdpy listens for what happens to the guest."""
        return f"{self.directory}/events"

    @property
    def console(self) -> str:
        """The serial console."""
        return f"{self.directory}/console"

    @property
    def secrets(self) -> str:
        """The host's end of the port for secrets."""
        return f"{self.directory}/secrets"

    @property
    def agent(self) -> str:
        """The host's end of the guest agent's port."""
        return f"{self.directory}/agent"

    @property
    def sockets(self) -> tuple[str, ...]:
        return (self.monitor, self.events, self.console, self.secrets, self.agent)


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk image as the guest's first disk."""

    path: str
    format: str
    volatile: bool | None
    """Whether what the guest writes is thrown away at its end; None leaves that to the machine's further options
    (``-snapshot`` in qemu-system-x86_64(1))."""
    bus: Literal["virtio", "ide"] = "virtio"


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel that QEMU loads itself; without one the firmware boots from the disk."""

    kernel: str
    initrd: str
    arguments: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual machine, as much of it as its command line says."""

    name: str
    qemu: str
    memory_size: int
    """MiB."""
    disk: Disk
    network: tuple[str, ...]
    """Options that give it its network card: see :mod:`herdpy.qemu.network`."""
    rooms: Rooms
    accelerator: Literal["kvm", "tcg"] = "tcg"
    cpu: str | None = None
    """None means QEMU's default."""
    cpu_count: int = 1
    date: datetime.datetime | None = None
    """What the guest's clock says when it starts, UTC; None means the host's time."""
    boot: Boot | None = None
    kind: Literal["virtio", "pc"] = "virtio"
    """``virtio``: a guest that knows the devices of virtual machines, and takes its secrets over one of them; ``pc``:
    one that knows a PC of the nineties, with a screen."""
    options: tuple[str, ...] = ()
    """Further options, the last on the command line."""


def _cpu(model: str, accelerator: str) -> str:
    """Without a line in the log, at each start, for each of a dozen features of most models that TCG leaves out; what
    the guest sees is the same (``qemu-system-x86_64 -device max-x86_64-cpu,help``)."""
    is_said = accelerator == "tcg" and not {"check", "enforce"} & {word.partition("=")[0] for word in model.split(",")}
    return f"{model},check=off" if is_said else model


def command_line(machine: Machine) -> tuple[str, ...]:
    """The command line of a virtual machine, program first."""
    rooms, is_virtio = machine.rooms, machine.kind == "virtio"
    accelerator = "tcg,thread=multi" if machine.accelerator == "tcg" else machine.accelerator
    options = [
        ("-name", f"guest={_value(machine.name)},debug-threads=on"),
        # On pc, routing the interrupt of each virtio device costs the guest a quarter of a second under TCG.
        ("-machine", "q35,graphics=off" if is_virtio else "pc"),
        ("-accel", accelerator),
        *([] if machine.cpu is None else [("-cpu", _cpu(machine.cpu, machine.accelerator))]),
        ("-smp", str(machine.cpu_count)),
        ("-m", f"{machine.memory_size}M"),
        *([] if machine.date is None else [("-rtc", f"base={machine.date:%Y-%m-%dT%H:%M:%S},clock=vm")]),
        ("-nodefaults",),
        ("-no-user-config",),
        *([("-display", "none")] if is_virtio else [("-vga", "std"), ("-vnc", VNC)]),
        ("-no-reboot",),
        ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *([("-device", "pvpanic-pci"), ("-device", "virtio-rng-pci")] if is_virtio else []),
        *_socket("monitor", rooms.monitor),
        ("-mon", "chardev=monitor,mode=control"),
        *_socket("events", rooms.events),
        ("-mon", "chardev=events,mode=control"),
        *_socket("console", rooms.console, f",logfile={_value(rooms.console_log)},logappend=on"),
        ("-serial", "chardev:console"),
        *(_serial_ports(rooms) if is_virtio else []),
        machine.network,
        *_disk(machine.disk),
    ]
    if machine.boot is not None:
        options += [
            ("-kernel", machine.boot.kernel),
            ("-initrd", machine.boot.initrd),
            ("-append", machine.boot.arguments),
        ]
    return (machine.qemu, *(word for option in options for word in option), *machine.options)


def _serial_ports(rooms: Rooms) -> list[tuple[str, ...]]:
    return [
        ("-device", "virtio-serial-pci"),
        *_socket("secrets", rooms.secrets),
        ("-device", f"virtserialport,chardev=secrets,name={SECRETS_PORT}"),
        *_socket("agent", rooms.agent),
        ("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
    ]


def _disk(disk: Disk) -> list[tuple[str, ...]]:
    snapshot = "" if disk.volatile is None else f",snapshot={'on' if disk.volatile else 'off'}"
    cache = ",cache=unsafe" if disk.volatile else ""
    device = "virtio-blk-pci" if disk.bus == "virtio" else "ide-hd"
    drive = f"if=none,id=disk0,file={_value(disk.path)},format={disk.format}{snapshot},discard=unmap{cache}"
    return [("-drive", drive), ("-device", f"{device},drive=disk0")]


def _socket(name: str, path: str, more: str = "") -> list[tuple[str, ...]]:
    return [("-chardev", f"socket,id={name},path={_value(path)},server=on,wait=off{more}")]


def _value(text: str) -> str:
    """A value within a list of options: a comma is doubled (qemu(1), "-drive")."""
    return text.replace(",", ",,")
