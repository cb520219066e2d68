"""What is looked at on the host before a machine is started."""

import os
import socket
from pathlib import Path

import pytest

from herdpy.qemu.preparation import CheckImage, CheckScreen
from herdpy.service import StartFailure
from tests.ports import free_port
from tests.qemu.secrets.conftest import Remembering


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("directory", "is a directory"),
        ("fifo", "is a FIFO"),
        ("socket", "is a socket"),
        ("null", "is a character device"),
    ],
)
def test_an_image_is_a_file_or_a_block_device(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "image"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
        case "null":
            path.symlink_to("/dev/null")
    link = tmp_path / "link"
    link.symlink_to(path)
    for one in (path, link):
        check = CheckImage(path=str(one), format="raw", user=None, where="image in vm.toml")
        assert check.lack() == f"the image {one} {words}; change image in vm.toml"


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    check = CheckImage(path=f"{tmp_path}/link", format="raw", user=None, where="image in vm.toml")
    assert check.lack() == (
        f"the image {tmp_path}/link cannot be used: No such file or directory; change image in vm.toml"
    )


async def test_a_screen_needs_one_port_of_many() -> None:
    taken = free_port()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", taken))
        stranger.listen()
        with pytest.raises(StartFailure) as caught:
            await CheckScreen(first=taken, last=taken).run(Remembering())
    assert str(caught.value) == (
        f"there is no port for its screen (VNC): 127.0.0.1:{taken} to {taken} are all in use; end one of those that"
        " listen there"
    )
    await CheckScreen(first=taken, last=taken).run(Remembering())
