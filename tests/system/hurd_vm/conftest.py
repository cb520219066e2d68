"""A herdpy in a network of its own: childhurds have the ports that the specification gives them, and nobody minds."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, PATIENCE, Herdpy, running_for_guests
from tests.system.hurd_vm import guests

ENTER = 'ip link set lo up && { [ -z "$ROOM" ] || mount -t tmpfs -o size=16k,mode=711 tmpfs "$ROOM"; } && exec "$@"'
"""What is done in the new namespaces before herdpy is executed there; ROOM is where there shall be no room."""


class Childhurds(Herdpy):
    """A herdpy for childhurds."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.secrets = directory / "secrets"
        self.disk = directory / "disk.img"
        self.disk.write_bytes(bytes(1024 * 1024))
        self.disk.chmod(0o644)
        self.state.mkdir(mode=0o711)
        user = () if os.geteuid() == 0 else ("--user", "--map-current-user", "--keep-caps")
        self.prefix = ("unshare", *user, "--net", "--mount", "sh", "-c", ENTER, "sh")

    def childhurd(
        self,
        kernel: Path,
        initrd: Path | None = None,
        *,
        name: str = "hurd-vm",
        arguments: str = "",
        text: str = "",
        root: str | None = None,
    ) -> None:
        """Declare one whose kernel QEMU loads."""
        options = ["--snapshot", "-kernel", str(kernel), "-append", arguments]
        if initrd is not None:
            options += ["-initrd", str(initrd)]
        self.declare(
            name,
            f'type = "hurd-vm"\nimage = "{self.disk}"\noptions = {json.dumps(options)}\n'
            f'secret-root = "{root or self.secrets / name}"\n{text}\n',
        )

    def linux(self, hello: str = "right", **options: Any) -> None:
        """Declare one that runs Linux."""
        self.childhurd(*guests.linux(), arguments=f"console=ttyS0 panic=-1 hello={hello}", **options)

    def inside(self, *command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[bytes]:
        """Run a command in herdpy's network."""
        return subprocess.run(
            [*self._enter(), *command],
            capture_output=True,
            env=self.environment,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def beside(self, *command: str) -> "subprocess.Popen[bytes]":
        """Begin a command in herdpy's network; it is to end when its standard input is closed."""
        words = [*self._enter(), *command]
        return subprocess.Popen(words, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _enter(self) -> list[str]:
        assert self.process is not None
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "-t", str(self.process.pid), *user, "--net"]

    def execute(self, service: str, *command: str) -> bytes:
        """What a command in a guest prints."""
        completed = self.inside(str(BIN / "herd"), "exec", service, "--", *command)
        assert completed.returncode == 0, completed
        return completed.stdout

    def greeting(self, port: int) -> bytes:
        """The first bytes from a port of herdpy's loopback."""
        program = f"import socket; s = socket.create_connection(('127.0.0.1', {port}), 20); print(s.recv(12).decode())"
        completed = self.inside("python3", "-c", program)
        return completed.stdout or completed.stderr


@pytest.fixture
def childhurds() -> Iterator[Childhurds]:
    """A herdpy for childhurds, not started yet."""
    with running_for_guests(Childhurds) as instance:
        yield instance
