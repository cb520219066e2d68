"""Building a childhurd's image, with a command that takes the arguments of ``guix system image``."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from herdpy.qemu.guix_image import BuildHurdImage
from herdpy.service import StartFailure
from tests.qemu.secrets.conftest import Remembering

GUIX = """#!/bin/sh
echo "$@" >>"$0.calls"
for word; do
  case $word in
    --root=*) root=${word#--root=} ;;
    --image-size=*[!0-9]*) echo "guix system: error: ${word#*=}: invalid number"; exit 1 ;;
  esac
  expression=$word
done
[ ! -e "$0.broken" ] || { echo "building /gnu/store/hurd.drv"; echo "guix system: error: no such thing"; exit 1; }
[ ! -L "$root" ] || { echo "error: root is there"; exit 1; }
echo "building /gnu/store/hurd-disk-image.drv..."
disk=$0.disk$(cat "$0.calls" | wc -l)
echo "$expression" >"$disk"
ln -s "$disk" "$root"
echo "$disk"
"""

VIRTUALIZATION = """
(define-module (gnu services virtualization)
  #:export (hurd-vm-configuration hurd-vm-disk-image))
(define-syntax hurd-vm-configuration  ; like Guix's, a macro
  (syntax-rules () ((_ (field value) ...) (list (cons 'field value) ...))))
(define (hurd-vm-disk-image configuration) (cons 'image configuration))
"""
UI = """
(define-module (guix ui)
  #:export (load* make-user-module))
(define (make-user-module modules) modules)
(define (load* file modules) (cons (call-with-input-file file read) modules))
"""
EVALUATE = """
(let ((module (make-module)))
  (beautify-user-module! module)
  (write (eval (call-with-input-string (cadr (command-line)) read) module)))
"""
"""What ``guix system`` does with an expression (read/eval in (guix ui))."""


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


def step(guix: Path, os: str | None = None, size: str = "guess", offloading: bool = True) -> BuildHurdImage:
    link = guix.parent / "state" / "guix" / "hurd-vm.qcow2"
    return BuildHurdImage(guix=str(guix), os=os, size=size, offloading=offloading, link=str(link))


def links(step: BuildHurdImage) -> list[str]:
    return sorted(os.listdir(os.path.dirname(step.link)))


async def test_it_is_built_once_and_anew_when_anything_changes(guix: Path, tmp_path: Path) -> None:
    declared = tmp_path / "hurd.scm"
    declared.write_text("(operating-system)")
    context = Listening()
    one = step(guix, str(declared))
    await one.run(context)
    assert Path(one.link).read_text() == f"{one.expression}\n"
    root = f"{os.path.dirname(one.link)}/{os.readlink(one.link)}"
    assert calls(guix) == [f"system image --root={root} --expression {one.expression}"]
    assert ("building the image with Guix: building /gnu/store/hurd-disk-image.drv...", None) in context.stages
    await one.run(context)
    assert len(calls(guix)) == 1
    declared.write_text("(operating-system (host-name 1))")
    await one.run(context)
    larger = step(guix, str(declared), "5368709120")
    await larger.run(context)
    assert len(calls(guix)) == 3
    await step(guix, str(declared), "5368709120", offloading=False).run(context)
    assert len(calls(guix)) == 4
    # The images of before are Guix's to collect.
    assert links(one) == ["hurd-vm.qcow2", os.readlink(one.link)]
    os.remove(os.path.realpath(one.link))  # collected
    await step(guix, str(declared), "5368709120", offloading=False).run(context)
    assert len(calls(guix)) == 5
    assert os.path.isfile(one.link)


@pytest.mark.skipif(shutil.which("guile") is None, reason="needs guile")
@pytest.mark.parametrize(
    ("size", "offloading", "with_os", "value"),
    [
        ("guess", True, False, "(image (disk-size . guess) (offloading? . #t))"),
        (
            "5242880000",
            False,
            True,
            "(image (disk-size . 5242880000) (offloading? . #f)"
            ' (os (operating-system "a") (gnu system) (gnu services) (gnu system shadow)))',
        ),
    ],
)
def test_the_expression_is_the_image_of_guixs_own_childhurd(
    guix: Path, tmp_path: Path, size: str, offloading: bool, with_os: bool, value: str
) -> None:
    declared = tmp_path / 'my "own".scm'
    declared.write_text('(operating-system "a")')
    for name, text in (("gnu/services/virtualization", VIRTUALIZATION), ("guix/ui", UI)):
        path = tmp_path / "modules" / f"{name}.scm"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    expression = step(guix, str(declared) if with_os else None, size, offloading).expression
    script = tmp_path / "evaluate.scm"
    script.write_text(EVALUATE)
    completed = subprocess.run(
        ["guile", "--no-auto-compile", "-L", tmp_path / "modules", script, expression],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.stdout == value, completed.stderr


async def test_a_failure_is_told_in_guixs_words_and_tried_again(guix: Path) -> None:
    one = step(guix)
    broken = Path(f"{guix}.broken")
    broken.touch()
    with pytest.raises(StartFailure) as caught:
        await one.run(Listening())
    assert str(caught.value) == "guix could not build the image: guix system: error: no such thing"
    assert caught.value.details == ("building /gnu/store/hurd.drv",)
    broken.unlink()
    await one.run(Listening())
    assert os.path.isfile(one.link)


async def test_a_failed_rebuild_leaves_the_image_that_works(guix: Path) -> None:
    one = step(guix)
    await one.run(Listening())
    before = Path(one.link).read_text()
    broken = Path(f"{guix}.broken")
    broken.touch()
    with pytest.raises(StartFailure, match="guix could not build the image"):
        await step(guix, size="5368709120").run(Listening())
    assert Path(one.link).read_text() == before
    await one.run(Listening())
    assert len(calls(guix)) == 2


@pytest.mark.parametrize(
    ("make", "said"), [(lambda path: None, "No such file or directory"), (os.mkfifo, "it is no regular file")]
)
async def test_a_declaration_that_is_none(guix: Path, tmp_path: Path, make: Callable[[str], None], said: str) -> None:
    path = f"{tmp_path}/hurd.scm"
    make(path)
    with trio.fail_after(20), pytest.raises(StartFailure, match=f"{said}: {path}"):
        await step(guix, path).run(Listening())
    assert calls(guix) == []
