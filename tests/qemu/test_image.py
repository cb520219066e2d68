"""The image: its recipe, its key, where its packages come from, and what its build says; and what stops it early."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from herdpy.qemu.apt_sources import choose, entry_of, parse_targets, signed_by
from herdpy.qemu.build_output import progress_reader, reason
from herdpy.qemu.guest import initrd
from herdpy.qemu.image import GUEST, TEMPORARY, Image, Recipe, command, key, parse_size

BUILD = Path(__file__).with_name("build_image.py")
BUILDABLE = all(shutil.which(program) for program in ("mmdebstrap", "mke2fs", "qemu-img", "unshare"))
needs_tools = pytest.mark.skipif(not BUILDABLE, reason="mmdebstrap, e2fsprogs or qemu-utils is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PATIENCE = 600
"""Seconds for a build that is to fail: apt waits half a minute for a silent server, four times (apt.conf(5))."""


def run_build(directory: Path, recipe: Recipe, *more: str, prefix: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """All that the building of an image told."""
    arguments = [*prefix, sys.executable, str(BUILD), str(directory), msgspec.json.encode(recipe).decode(), *more]
    completed = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    assert completed.returncode == 0, completed.stderr
    return [json.loads(line) for line in completed.stdout.splitlines()]


# The recipe and its key


def test_the_key_follows_every_ingredient() -> None:
    recipes = [
        Recipe(),
        Recipe(suite="trixie"),
        Recipe(size=2**30),
        Recipe(packages=("git",)),
        Recipe(sources=("deb http://localhost/debian bookworm main",)),
    ]
    assert len({key(recipe) for recipe in recipes}) == len(recipes)


def test_the_key_does_not_depend_on_the_order_of_packages() -> None:
    assert key(Recipe(packages=("git", "cmake"))) == key(Recipe(packages=("cmake", "git", "git")))


@pytest.mark.parametrize(
    ("text", "size"),
    [("10G", 10 * 2**30), ("2048M", 2**31), (2**30, 2**30), ("1GiB", 2**30), ("1", None), ("10X", None), ("G", None)],
)
def test_sizes_are_read(text: int | str, size: int | None) -> None:
    assert parse_size(text) == size


def test_the_command_works_in_namespaces_of_its_own() -> None:
    recipe = Recipe(packages=("git",))
    line = command(recipe, "/srv/images", ["deb http://localhost bookworm main"], is_root=True)
    assert line[0] == "unshare"
    assert {"--mount", "--pid", "--kill-child"} <= set(line[: line.index("--")])
    assert "--user" not in line
    assert line[-1] == "deb http://localhost bookworm main"
    assert {"/srv/images", key(recipe), str(recipe.size)} <= set(line)
    assert "--map-auto" in command(recipe, "/srv/images", [], is_root=False)


# Where the packages come from

TARGETS = """\
Origin: Debian
Label: Debian
Codename: bookworm
Suite: oldstable
Component: main
Release: bookworm
Repo-URI: http://mirror.example/debian/

Origin: Debian
Label: Debian
Codename: bookworm-updates
Component: main
Release: bookworm-updates
Repo-URI: http://mirror.example/debian/

Origin: Debian
Label: Debian-Security
Codename: bookworm-security
Component: main
Release: bookworm-security
Repo-URI: http://security.example/debian-security/

Origin: Debian
Label: Debian
Codename: bookworm
Component: non-free
Release: bookworm
Repo-URI: http://mirror.example/debian/

Origin: . nodistro
Label: . nodistro
Codename: bookworm
Component: main
Release: bookworm
Repo-URI: https://third.party.example/debian/
"""


def lines(text: str, suite: str, keyring: str | None = None) -> tuple[str, ...]:
    return choose(parse_targets(text), suite, lambda _target: keyring)


def test_a_configured_suite_comes_from_where_the_host_gets_it() -> None:
    assert lines(TARGETS, "bookworm", "/k.gpg") == (
        "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main",
        "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main",
        "deb [signed-by=/k.gpg] http://security.example/debian-security bookworm-security main",
    )


def test_another_suite_comes_from_the_same_mirror() -> None:
    assert lines(TARGETS, "trixie") == (
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
        "deb http://security.example/debian-security trixie-security main",
    )
    assert lines(TARGETS, "sid") == ("deb http://mirror.example/debian sid main",)


def test_third_parties_are_no_mirror() -> None:
    assert lines(TARGETS.rsplit("\n\n", maxsplit=1)[-1], "bookworm") == ()


def test_before_apt_get_update_the_address_tells() -> None:
    bare = "Component: main\nRelease: bookworm\nRepo-URI: http://mirror.example/debian/\n"
    assert lines(bare, "bookworm") == ("deb http://mirror.example/debian bookworm main",)


def test_the_keyring_is_that_of_the_entry(tmp_path: Path) -> None:
    stanzas = tmp_path / "debian.sources"
    stanzas.write_text("# a\nURIs: a\nSigned-By: /a.gpg\n\n\nURIs: b\nSigned-By: /b.gpg\n")
    assert signed_by({"sourcesentry": f"{stanzas}:2"}) == "/b.gpg"
    one_line = tmp_path / "sources.list"
    one_line.write_text("# a\ndeb [arch=amd64 signed-by=/c.gpg] http://c bookworm main\n")
    assert signed_by({"sourcesentry": f"{one_line}:2"}) == "/c.gpg"
    assert entry_of("a\n", 7, is_stanza=False) == ""


@given(st.text())
def test_any_text_can_be_read_as_targets(text: str) -> None:
    choose(parse_targets(text), "bookworm", lambda _target: None)


# What the build says


def test_progress_never_shrinks_and_tells_stages() -> None:
    read = progress_reader()
    said = [
        "progress 0.01 reading the package lists",
        "I: running apt-get update...",
        "I: downloading packages with apt...",
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        "Get:1 http://a b",
        "Get:2 http://a b",
        "I: extracting archives...",
        "I: installing essential packages...",
        "Unpacking a",
        "Setting up a",
        "I: installing remaining packages inside the chroot...",
        "0 upgraded, 1 newly installed",
        "Get:1 http://a b",
        "Selecting previously unselected package b.",
        "Unpacking b",
        "Setting up b",
        "Setting up c, which nobody counted",
        "progress 0.90 compressing the disk",
        "    (50.00/100%)",
        "progress 1 ready",
    ]
    stages = [stage for line in said if (stage := read(line))]
    shares = [share for _, share in stages]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert dict(reversed(stages))["compressing the disk"] == pytest.approx(0.90)
    assert any(share == pytest.approx(0.945) for share in shares)
    assert [words for words, _ in stages].count("installing packages") == 4


@given(st.lists(st.text()))
def test_any_output_can_be_read(output: list[str]) -> None:
    read = progress_reader()
    for line in output:
        read(line)
    assert reason("\n".join(output), 1, "/srv")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("cp: x: No space left on device\nE: failed", "there is no space left in /srv: free some"),
        ("E: Failed to fetch http://m/x  404  Not Found [IP: ::1]", "cannot download http://m/x: 404  Not Found"),
        ("E: The repository 'http://m bad Release' does not have a Release file.", "http://m has no suite bad"),
        ("E: Unable to locate package nonesuch", "there is no package nonesuch"),
        ("unshare: unshare failed: Operation not permitted", "unshare: unshare failed: Operation not permitted: "),
        ("error refusing to build in /", "refusing to build in /"),
        ("E: mkdir: cannot frob", "it ended with status 1: mkdir: cannot frob"),
    ],
)
def test_a_failure_is_told_with_what_to_do(output: str, expected: str) -> None:
    assert reason(output, 1, "/srv").startswith(expected)


# The initial RAM disk


def module(*needs: str) -> bytes:
    return b"ELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_modules_are_loaded_after_those_they_need() -> None:
    modules = {"virtio-net": module("net-failover", "virtio"), "net_failover": module("virtio"), "virtio": module()}
    modules = {name.replace("-", "_"): contents for name, contents in modules.items()}
    assert initrd.load_order(["virtio_net", "ext4"], modules, {"ext4"}) == ["virtio", "net_failover", "virtio_net"]
    with pytest.raises(KeyError):
        initrd.load_order(["absent"], modules, set())


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_the_archive_is_a_cpio(tmp_path: Path) -> None:
    entries = [("a", 0o040755, b"", (0, 0)), ("a/b", 0o100644, b"contents", (0, 0)), ("a/l", 0o120777, b"b", (0, 0))]
    archive = b"".join(initrd.cpio(entries))
    subprocess.run(["busybox", "cpio", "-i"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a" / "l").read_bytes() == b"contents"


# What stops it early


def run_script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the build where it can do no harm: in a mount namespace, with everything read-only."""
    jail = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    script = 'mount -o remount,bind,ro / && exec sh "$@"'
    return subprocess.run(
        [*jail, script, "jail", os.path.join(GUEST, name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


@needs_root
@pytest.mark.parametrize("root", [(), ("",), ("/",), ("//",), ("/proc/self/root",), ("relative",), ("/usr/..",)])
def test_the_hook_refuses_the_host(root: tuple[str, ...]) -> None:
    completed = run_script("customize.sh", *root, MMDEBSTRAP_APT_CONFIG="/dev/null", HERDPY_GUEST=GUEST)
    assert completed.returncode == 1
    assert "error refusing to customize" in completed.stderr


@needs_root
def test_the_hook_refuses_a_tree_that_nobody_builds(tmp_path: Path) -> None:
    completed = run_script("customize.sh", str(tmp_path), MMDEBSTRAP_APT_CONFIG="/dev/null")
    assert completed.returncode == 1
    assert "no tree that mmdebstrap is building" in completed.stderr
    assert list(tmp_path.iterdir()) == []


REST = ("suite", "1", "architecture", "kernel", "packages", "python", "{}", "source")
"""Arguments of build.sh after the directory and the key."""


@needs_root
@pytest.mark.parametrize("directory", ["/", "//", "", "relative", "/proc/self/root"])
def test_the_build_refuses_the_host(directory: str) -> None:
    completed = run_script("build.sh", directory, "a" * 32, *REST)
    assert completed.returncode == 1
    assert completed.stdout.startswith("error refusing to build in")


def test_the_build_refuses_to_mount_outside_a_namespace(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "a" * 32, *REST]
    completed = subprocess.run(["sh", os.path.join(GUEST, "build.sh"), *arguments], capture_output=True, text=True)
    assert completed.returncode == 1
    assert "must be started by unshare" in completed.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Path]:
    """A directory for images, in which at the end of the test nothing may be left."""
    directory = tmp_path / "images"
    yield directory
    assert not directory.exists() or list(directory.iterdir()) == []


@needs_tools
def test_an_unreachable_mirror_is_named(images: Path) -> None:
    sources = ("deb [trusted=yes] http://127.0.0.1:9/debian bookworm main",)
    *_, last = run_build(images, Recipe(sources=sources))
    assert last["failed"].startswith("cannot build its image: cannot download http://127.0.0.1:9/debian/")
    assert "Connection refused" in last["failed"] or "Could not connect" in last["failed"]
    assert 0 < len(last["details"]) <= 10


@needs_tools
def test_too_little_space_is_told_beforehand(images: Path) -> None:
    *_, last = run_build(images, Recipe(), str(2**60))
    assert last["failed"].startswith(f"cannot build its image: {images} has ")
    assert f"needs {2**40} MiB" in last["failed"]


@needs_tools
@needs_root
def test_a_full_disk_leaves_nothing(images: Path, tmp_path: Path) -> None:
    images.mkdir()
    mount = (
        f'mount -t tmpfs -o size=24m tmpfs {images} && "$@"; status=$?; ls -A {images} >{tmp_path}/left; exit $status'
    )
    *_, last = run_build(images, Recipe(), "1", prefix=("unshare", "--mount", "sh", "-c", mount, "jail"))
    assert last["failed"] == (
        f"cannot build its image: there is no space left in {images}: free some, or move herdpy's state directory"
    )
    assert (tmp_path / "left").read_text() == ""


@needs_tools
@needs_root
def test_a_disk_that_is_mounted_where_the_tree_would_be_is_not_hidden(tmp_path: Path) -> None:
    """A program in mmdebstrap's place tells what it would find."""
    tell = 'echo "error $(stat -c %i "$PWD") $(stat -c %i .) $TMPDIR $(ls "$HERDPY_GUEST/customize.sh")"; exit 1'
    (tmp_path / "mmdebstrap").write_text(f"#!/bin/sh\n{tell}\n")
    (tmp_path / "mmdebstrap").chmod(0o755)
    mount = f'mount -t tmpfs tmpfs /mnt && PATH="{tmp_path}:$PATH" && "$@"'
    *_, last = run_build(Path("/mnt/images"), Recipe(), "1", prefix=("unshare", "--mount", "sh", "-c", mount, "jail"))
    work = f"/mnt/images/{TEMPORARY}{key(Recipe())}"
    assert (found := re.fullmatch(r"cannot build its image: (\d+) (\d+) (\S+) (\S+)", last["failed"])), last
    assert found[1] == found[2]
    assert found[4] == f"{work}/guest/customize.sh"
    assert found[3] in {"/media/tmp", "/srv/tmp"}
    assert not os.path.lexists("/mnt/images")


@needs_tools
def test_an_unwritable_directory_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    *_, last = run_build(blocked / "images", Recipe())
    assert last["failed"] == f"cannot make the directory of images {blocked / 'images'}: Not a directory"


def test_an_image_that_is_there_is_not_built(tmp_path: Path) -> None:
    image = Image(str(tmp_path / key(Recipe())))
    os.mkdir(image.directory)
    for path in (image.disk, image.kernel, image.initrd, image.recipe):
        Path(path).touch()
    assert run_build(tmp_path, Recipe()) == [{"built": key(Recipe())}]
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


@needs_tools
async def test_pruning_keeps_what_is_wanted_and_what_is_at_work(tmp_path: Path) -> None:
    kept, dropped = key(Recipe()), key(Recipe(suite="trixie"))
    for name in (kept, dropped, f"{TEMPORARY}{kept}", f"{TEMPORARY}{dropped}"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "mine").write_text("not an image")
    at_work = os.open(tmp_path / f"{TEMPORARY}{kept}", os.O_RDONLY)
    try:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        arguments = [sys.executable, str(BUILD), "prune", str(tmp_path), kept]
        completed = await trio.run_process(arguments, capture_stdout=True, check=True)
    finally:
        os.close(at_work)
    assert json.loads(completed.stdout) == {"pruned": [dropped]}
    assert {entry.name for entry in tmp_path.iterdir()} == {kept, f"{TEMPORARY}{kept}", "mine"}
