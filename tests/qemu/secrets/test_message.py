import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy import sexp
from herdpy.qemu.secrets import message
from herdpy.qemu.secrets.message import payload, read_payload
from herdpy.service import StartFailure


def unpack(message: bytes) -> list[tuple[str, int, bytes]]:
    """The guest's side, as Guix reads it: one S-expression, then so many bytes for each file."""
    reader = sexp.Reader(size=1 << 26)
    # Latin-1, so that one byte is one character and names of any bytes come through.
    (head, *_) = _heads(reader, message)
    place = len(head)
    symbol, version, (files_symbol, files) = sexp.read(head.decode("latin-1"))
    assert (symbol, version, files_symbol) == ("secrets", [sexp.Symbol("version"), 0], "files")
    taken = []
    for name, size, mode in files:
        taken.append((os.fsdecode(name.encode("latin-1")), mode, message[place : place + size]))
        place += size
    assert place == len(message), "there is more than the list says"
    return taken


def _heads(reader: sexp.Reader, message: bytes) -> list[bytes]:
    depth, quoted, escaped = 0, False, False
    for place, byte in enumerate(message):
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = byte == 0x5C, byte != 0x22
        elif byte == 0x22:
            quoted = True
        else:
            depth += {0x28: 1, 0x29: -1}.get(byte, 0)
            if depth == 0:
                return [message[: place + 1]]
    raise AssertionError("the list does not end")


def test_the_message_is_what_guix_sends_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "etc/ssh").mkdir(parents=True)
    (tmp_path / "etc/ssh/key").write_bytes(b"private")
    (tmp_path / "etc/ssh/key").chmod(0o600)
    (tmp_path / "etc/motd").write_bytes(b"hi\n")
    (tmp_path / "etc/motd").chmod(0o644)
    assert payload(str(tmp_path)) == (
        b'(secrets (version 0) (files (("/etc/motd" 3 33188) ("/etc/ssh/key" 7 33152))))hi\nprivate'
    )


@pytest.mark.parametrize("make", [False, True])
def test_an_empty_or_missing_root_is_an_empty_list(tmp_path: Path, make: bool) -> None:
    root = tmp_path / "root"
    if make:
        root.mkdir()
    assert payload(str(root)) == b"(secrets (version 0) (files ()))"


def test_only_files_are_sent(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    for directory in (outside / "directory", root / "empty", root / ".herdpy-build-vm"):
        directory.mkdir(parents=True)
    (outside / "file").write_text("by a link")
    (outside / "directory/file").write_text("not this one")
    (root / ".herdpy-build-vm/key").write_text("unfinished")
    (root / "link").symlink_to(outside / "file")
    (root / "directory").symlink_to(outside / "directory")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    assert [(name, content) for name, _, content in unpack(payload(str(root)))] == [("/link", b"by a link")]


@pytest.mark.parametrize("root", ["/", "//", "/usr/.."])
async def test_the_hosts_own_root_is_refused(root: str) -> None:
    with pytest.raises(StartFailure, match="the host's root directory is not a directory of secrets"):
        await read_payload(root)


async def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartFailure) as caught:
        await read_payload(str(tmp_path / "file/root"))
    assert str(caught.value).startswith(f"cannot read the guest's secrets: Not a directory: {tmp_path}/file/root")


_names = st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name)
_names = _names.filter(lambda name: name not in (b".", b"..") and not name.startswith(b".herdpy-"))


@given(
    st.dictionaries(
        _names, st.tuples(st.binary(max_size=300), st.sampled_from([0o600, 0o644, 0o755, 0o4711])), max_size=8
    )
)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, files: dict[bytes, tuple[bytes, int]]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for name, (content, mode) in files.items():
        for path in (root / os.fsdecode(name), root / "below" / os.fsdecode(name)):
            path.parent.mkdir(exist_ok=True)
            if path.is_dir():
                continue
            path.write_bytes(content)
            path.chmod(mode)
    expected = {
        f"/{path.relative_to(root)}": (path.stat().st_mode, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }
    taken = unpack(payload(str(root)))
    assert {name: (mode, content) for name, mode, content in taken} == expected
    assert [name for name, _, _ in taken] == sorted(expected)
    assert all(stat.S_ISREG(mode) for _, mode, _ in taken)


def test_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "small").write_bytes(b"x")
    with (tmp_path / "etc" / "disk.img").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(
        ValueError, match=r"its files are 3072 MiB, and may be 1024; the largest is etc/disk\.img \(3072"
    ):
        payload(str(tmp_path))


async def test_what_the_guest_would_refuse_is_a_clear_failure(tmp_path: Path, monkeypatch) -> None:
    for number in range(10):
        (tmp_path / f"{number}{'x' * 200}").write_bytes(b"12345")
    whole = payload(str(tmp_path))
    list_of_files = len(whole) - 50
    for limits, said in (
        ({"LARGEST": len(whole), "LONGEST_LIST": list_of_files}, None),
        ({"LARGEST": len(whole) - 1, "LONGEST_LIST": list_of_files}, "with the list of them"),
        ({"LARGEST": 49}, "its files are 0 MiB, and may be 0"),
        ({"LONGEST_LIST": list_of_files - 1}, f"the list of its files is {list_of_files} bytes, and may be"),
        ({"LONGEST_LIST": 2009}, "the names of its 10 files are 2010 bytes, and may be 2009"),
    ):
        with monkeypatch.context() as patch:
            for name, limit in limits.items():
                patch.setattr(message, name, limit)
            if said is None:
                assert await read_payload(str(tmp_path)) == whole
                continue
            with pytest.raises(StartFailure) as caught:
                await read_payload(str(tmp_path))
            assert str(caught.value).startswith(f"cannot send {tmp_path} to the guest: ")
            assert said in str(caught.value)
