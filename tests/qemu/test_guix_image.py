"""Building a childhurd's image, with a command that takes the arguments of ``guix system image``."""

import os
from pathlib import Path

import pytest

from herdpy.qemu.guix_image import DEFAULT_OS, BuildHurdImage
from herdpy.service import StartFailure
from tests.qemu.secrets.conftest import Remembering

GUIX = """#!/bin/sh
echo "$@" >>"$0.calls"
[ ! -e "$0.broken" ] || { echo "building /gnu/store/hurd.drv"; echo "guix system: error: no such thing"; exit 1; }
for word; do case $word in --root=*) root=${word#--root=} ;; esac; done
[ ! -L "$root" ] || { echo "error: root is there"; exit 1; }
echo "building /gnu/store/hurd-disk-image.drv..."
echo disk >"$0.disk"
ln -s "$0.disk" "$root"
echo "$0.disk"
"""


@pytest.fixture
def guix(tmp_path: Path) -> Path:
    path = tmp_path / "guix"
    path.write_text(GUIX)
    path.chmod(0o755)
    return path


class Listening(Remembering):
    """Has each line of a command's output heard, after its end."""

    async def command(self, command, *, on_line=None, **options):
        completed = await super().command(command, **options)
        for line in completed.output.splitlines():
            if on_line is not None:
                on_line(line)
        return completed


def calls(guix: Path) -> list[str]:
    path = Path(f"{guix}.calls")
    return path.read_text().splitlines() if path.exists() else []


async def test_it_is_built_once_and_anew_when_anything_changes(guix: Path, tmp_path: Path) -> None:
    link = tmp_path / "state" / "guix" / "hurd-vm.qcow2"
    declared = tmp_path / "hurd.scm"
    declared.write_text("(operating-system)")
    context = Listening()

    async def build(size: str = "guess") -> None:
        await BuildHurdImage(guix=str(guix), os=str(declared), size=size, link=str(link)).run(context)

    await build()
    assert link.read_text() == "disk\n"
    assert calls(guix) == [f"system image --image-type=hurd-qcow2 --image-size=guess --root={link} {declared}"]
    assert ("building the image with Guix: building /gnu/store/hurd-disk-image.drv...", None) in context.stages
    await build()
    assert len(calls(guix)) == 1
    declared.write_text("(operating-system (host-name 1))")
    await build()
    await build("5368709120")
    assert len(calls(guix)) == 3
    Path(f"{guix}.disk").unlink()  # collected
    await build("5368709120")
    assert len(calls(guix)) == 4


async def test_the_default_is_guixs_own_system(guix: Path, tmp_path: Path) -> None:
    link = str(tmp_path / "hurd.qcow2")
    await BuildHurdImage(guix=str(guix), os=None, size="guess", link=link).run(Listening())
    assert calls(guix)[0].endswith(f"--root={link} --expression {DEFAULT_OS}")


async def test_a_failure_is_told_in_guixs_words_and_tried_again(guix: Path, tmp_path: Path) -> None:
    step = BuildHurdImage(guix=str(guix), os=None, size="guess", link=str(tmp_path / "hurd.qcow2"))
    broken = Path(f"{guix}.broken")
    broken.touch()
    with pytest.raises(StartFailure) as caught:
        await step.run(Listening())
    assert str(caught.value) == "guix could not build the image: guix system: error: no such thing"
    assert caught.value.details == ("building /gnu/store/hurd.drv",)
    broken.unlink()
    await step.run(Listening())
    assert os.path.isfile(step.link)


async def test_a_declaration_that_is_not_there(guix: Path, tmp_path: Path) -> None:
    step = BuildHurdImage(guix=str(guix), os="/nonexistent/hurd.scm", size="guess", link=str(tmp_path / "h.qcow2"))
    with pytest.raises(StartFailure, match=r"No such file or directory: /nonexistent/hurd\.scm"):
        await step.run(Listening())
    assert calls(guix) == []
