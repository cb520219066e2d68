"""Everything at once, for a few seconds: whatever happened, every service can be brought to running and to stopped."""

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

from herdpy import protocol

REQUIREMENTS = {
    "base": [],
    "left": ["base"],
    "right": ["base"],
    "top": ["left", "right"],
    "tail": ["top"],
    "lone": [],
}
SECONDS = 12.0
SEED = 20201
COMMANDS = ["start"] * 4 + ["stop"] * 3 + ["restart"] * 2 + ["enable"] * 2 + ["disable", "status", "progress", "kill"]
PATIENCE = 60.0
"""Seconds without an answer after which a client counts as forgotten; nothing here takes longer than some."""


def test_a_storm_of_commands_and_deaths_leaves_everything_answering(herdpy):
    for name, requirement in REQUIREMENTS.items():
        # The directory makes the command line this test's own.
        script = f": {herdpy.directory}:{name}; trap 'sleep 0.0{len(name)}; exit' TERM; while :; do sleep 0.05; done"
        herdpy.declare(
            name,
            f"command = {json.dumps(['sh', '-c', script])}\nrequirement = {json.dumps(requirement)}\n"
            "grace-period = 1\nrespawn-delay = 0.02\nrespawn-limit = 4\nrespawn-interval = 1\n",
        )
    herdpy.start()
    over = threading.Event()
    forgotten: list[tuple[str, str]] = []

    def client(seed: int) -> None:
        choice = random.Random(seed)
        while not over.is_set():
            action, name = choice.choice(COMMANDS), choice.choice(list(REQUIREMENTS))
            try:
                if action != "kill":
                    ask(herdpy, action, name)
                elif (pid := running(herdpy, name)) is not None:
                    os.kill(pid, choice.choice([signal.SIGKILL, signal.SIGTERM]))
            except TimeoutError:
                forgotten.append((action, name))
            except (OSError, protocol.ProtocolError):
                pass  # the supervisor died of us, or the process was quicker
            over.wait(choice.random() * 0.1)

    clients = [threading.Thread(target=client, args=(SEED + number,)) for number in range(5)]
    for thread in clients:
        thread.start()
    choice = random.Random(SEED)
    end = time.monotonic() + SECONDS
    killed = 0
    while time.monotonic() < end:
        over.wait(choice.uniform(0.3, 2.0))
        killed += 1
        if killed % 3 == 0:  # five in a row that never got ready count as crashes
            ask(herdpy, "status", "root")
        with contextlib.suppress(ValueError, ProcessLookupError):  # none at the moment
            os.kill(herdpy.supervisor(), signal.SIGKILL)
    over.set()
    for thread in clients:
        thread.join()
    assert forgotten == []

    for name in REQUIREMENTS:
        ask(herdpy, "enable", name)
    for name in REQUIREMENTS:
        assert ask(herdpy, "start", name).result is not False, herdpy.said()
    for name in REQUIREMENTS:
        assert processes(herdpy, name) == [running(herdpy, name)], herdpy.said()
    for name in REQUIREMENTS:
        ask(herdpy, "stop", name)
    for name in REQUIREMENTS:
        assert herdpy.status(name)["status"] == "stopped"
        assert processes(herdpy, name) == []
    assert len(herdpy.children("")) == 2, "of what the keeper had, supervisor and logger are left"
    assert "crashed" not in herdpy.said()


def ask(herdpy, action: str, service: str) -> protocol.Reply:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(herdpy.socket))
        client.sendall(protocol.write_command(protocol.Command(action, service, (), "/")))
        reply = b""
        while chunk := client.recv(65536):
            reply += chunk
    *_, last = reply.decode().splitlines() or [""]  # before it, the stream of progress
    return protocol.parse_reply(last)


def running(herdpy, name: str) -> int | None:
    """The PID of a service's process, if it has one."""
    (service,) = protocol.parse_services(ask(herdpy, "status", name).result)
    return service["running"] if type(service["running"]) is int else None


def processes(herdpy, name: str) -> list[int]:
    """Which processes of a service there are, whoever knows of them."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdecimal() or os.getsid(int(entry.name)) != int(entry.name):
                continue  # what the shell has forked shows the shell's command line until it has executed its own
            if entry.name.isdecimal() and f"{herdpy.directory}:{name};".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found
