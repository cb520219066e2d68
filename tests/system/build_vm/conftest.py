"""A herdpy whose guests' user can reach its directories, and whose images are kept from one test to the next."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from herdpy import protocol
from tests.conftest import BIN, CACHE, Herdpy, running_for_guests
from tests.ports import free_port

IMAGES = CACHE / "images"


class Machines(Herdpy):
    """A herdpy for virtual build machines."""

    client = str(BIN / "herd")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.secrets = directory / "secrets"
        self.ports: dict[str, int] = {}
        self.state.mkdir(mode=0o711)
        IMAGES.mkdir(parents=True, exist_ok=True)
        (self.state / "images").symlink_to(IMAGES)

    def declare(self, name: str, text: str = "") -> Path:
        """Declare a small machine on ports of its own; ``text`` is further keys."""
        self.ports[name] = free_port()
        defaults = {"cpu-count": "2", "memory-size": "512"}
        lines = [
            f"{key} = {value}" for key, value in defaults.items() if not text.startswith(key) and f"\n{key}" not in text
        ]
        forwardings = f"{{ host = {self.ports[name]}, guest = 22 }}, {{ host = {free_port()}, guest = 1004 }}"
        return super().declare(
            name,
            "\n".join(
                [
                    'type = "virtual-build-machine"',
                    f"port-forwardings = [{forwardings}]",
                    f'secret-root = "{self.secrets / name}"',
                    *lines,
                    text,
                    "",
                ]
            ),
        )

    def reach(self, service: str) -> list[str]:
        """The ssh command line that leads into a machine."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(self.socket))
            client.sendall(protocol.write_command(protocol.Command("reach", service)))
            reply = b""
            while chunk := client.recv(65536):
                reply += chunk
        fields = protocol.parse_fields(protocol.parse_reply(reply.decode()).result[0])  # type: ignore[index]
        ssh: list[str] = fields["ssh"]  # type: ignore[assignment]
        return ssh


@pytest.fixture
def machines() -> Iterator[Machines]:
    """A herdpy for build machines, not started yet."""
    with running_for_guests(Machines) as instance:
        yield instance
