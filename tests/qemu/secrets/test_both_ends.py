"""Our end of the secrets against the default image's, the program that runs in the guest."""

import os
import shutil
import stat
import subprocess
from importlib import resources
from pathlib import Path

import pytest
import trio

from herdpy.qemu.secrets.keys import FillSecrets
from herdpy.qemu.secrets.serial_port import SendSecrets
from herdpy.service import StartFailure

RECEIVER = Path(str(resources.files("herdpy.qemu") / "guest/overlay/usr/lib/herdpy/secrets"))

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="the guest's end needs perl")


async def guest(socket_path: Path, root: Path, task_status=trio.TASK_STATUS_IGNORED) -> None:
    """What a guest below ``root`` does with the one client of its port, as QEMU hands it on."""
    root.mkdir()
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(socket_path))
        listener.listen(1)
        task_status.started()
        connection, _ = await listener.accept()
    with connection:
        os.set_blocking(connection.fileno(), True)
        await trio.run_process(
            ["perl", RECEIVER],
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            env={**os.environ, "HERDPY_SECRETS_ROOT": str(root)},
        )


async def test_a_filled_root_arrives_with_contents_and_modes(tmp_path: Path, context, nursery) -> None:
    root = tmp_path / "root"
    await FillSecrets(root=str(root), keys_directory=str(tmp_path / "keys"), name="build-vm").run(context)
    (root / 'etc/odd "name" \\ é').write_bytes(bytes(range(256)) * 1000)
    (root / "etc/empty").touch(0o640)
    with trio.fail_after(60):
        await nursery.start(guest, tmp_path / "socket", tmp_path / "guest")
        await SendSecrets(str(tmp_path / "socket"), str(root)).run(context)

    def files(directory: Path) -> dict[str, tuple[int, bytes]]:
        return {
            str(path.relative_to(directory)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
            for path in directory.rglob("*")
            if path.is_file()
        }

    assert files(tmp_path / "guest") == files(root)
    assert len(files(root)) == 7


async def test_what_the_guest_cannot_write_fails_the_start(tmp_path: Path, context, nursery) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/motd").write_text("hi\n")
    with trio.fail_after(60):
        await nursery.start(guest, tmp_path / "socket", tmp_path / "guest")
        (tmp_path / "guest/etc").write_text("no directory")
        with pytest.raises(
            StartFailure, match=r"the guest refused its secrets: cannot make the directory .*/guest/etc: "
        ):
            await SendSecrets(str(tmp_path / "socket"), str(tmp_path / "root")).run(context)


async def test_an_empty_list_is_installed_too(tmp_path: Path, context, nursery) -> None:
    with trio.fail_after(60):
        await nursery.start(guest, tmp_path / "socket", tmp_path / "guest")
        await SendSecrets(str(tmp_path / "socket"), str(tmp_path / "none")).run(context)


def test_the_receiver_is_a_program_perl_understands() -> None:
    assert subprocess.run(["perl", "-c", RECEIVER], capture_output=True).returncode == 0
