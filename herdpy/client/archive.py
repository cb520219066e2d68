"""A directory as a tar stream, out and in: what ``herd offload`` sends and fetches."""

import os
import posixpath
import tarfile
from collections.abc import Sequence
from typing import IO

from herdpy.client.words import Failure, warn


class Snapshot:
    """The names in a directory, in the order in which they are to be packed, and the time of the newest."""

    __slots__ = ("names", "newest")

    def __init__(self, names: "list[str]", newest: float) -> None:
        self.names = names
        self.newest = newest


def snapshot(directory: str) -> Snapshot:
    """Return what is in the directory: every name, directories before what is in them, relative to it.

    Raises:
        Failure: when part of it cannot be looked at.
    """

    def refuse(error: OSError) -> None:
        raise Failure(f"cannot copy {error.filename}: {error.strerror}")

    names: list[str] = []
    newest = os.stat(directory).st_mtime
    for parent, directories, files in os.walk(directory, onerror=refuse):
        for name in sorted(directories) + sorted(files):
            path = os.path.join(parent, name)
            try:
                newest = max(newest, os.lstat(path).st_mtime)
            except FileNotFoundError:
                continue  # it was somebody's temporary file
            names.append(os.path.relpath(path, directory))
    return Snapshot(names, newest)


def pack(stream: IO[bytes], directory: str, contents: Snapshot, shift: float) -> None:
    """Write the directory as a tar archive, every time later by ``shift`` seconds.

    Modes, symbolic and hard links, fractions of seconds and names that are no UTF-8 survive (the pax format keeps
    them); owners do not: in the guest everything is the guest user's. Sockets and devices are left out.

    Raises:
        OSError: when a file cannot be read or the stream not written.
    """
    with tarfile.open(
        fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for name in [".", *contents.names]:
            path = os.path.join(directory, name)
            try:
                member = archive.gettarinfo(path, arcname=name)
            except FileNotFoundError:
                continue
            if member is None or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                warn(f"{path}: neither a file, a directory nor a link; left out")
                continue
            member.mtime += shift
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            if member.isreg():
                with open(path, "rb") as content:
                    archive.addfile(member, content)
            else:
                archive.addfile(member)


def unpack(stream: IO[bytes], directory: str, paths: "Sequence[str]") -> "set[str]":
    """Unpack what the guest sent into the directory, and return which of ``paths`` came.

    The guest is not trusted: only regular files, directories and links that are one of ``paths`` or below it are
    accepted, and nothing that is or leads outside of the directory. An existing file is replaced, not written into.

    Raises:
        Failure: when the guest sends anything else, or a file cannot be written.
    """
    root = os.path.realpath(directory)
    found: set[str] = set()
    directories: list[tuple[str, tarfile.TarInfo]] = []
    links: list[str] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                name = _checked(member, root, paths)
                found.update(path for path in paths if _is_below(name, path))
                path = os.path.join(root, name)
                _place(archive, member, path)
                if member.isdir():
                    directories.append((path, member))
                elif member.issym():
                    links.append(path)
    except (tarfile.ReadError, EOFError) as error:
        if "empty" not in str(error):
            raise Failure(f"cannot bring back everything: {error}") from None
    except tarfile.TarError as error:
        raise Failure(f"cannot bring back everything: {error}") from None
    except OSError as error:
        raise Failure(f"cannot write {error.filename or directory}: {error.strerror or error}") from None
    finally:
        # What a link passes through may have become another link after it was checked.
        strays = [link for link in links if os.path.islink(link) and not _is_within(os.path.realpath(link), root)]
        for link in strays:
            os.unlink(link)
    if strays:
        raise Failure(f"the guest sent links that lead out of {root}; they have been removed: {', '.join(strays)}")
    for path, member in reversed(directories):
        os.chmod(path, member.mode & 0o777)
        os.utime(path, (member.mtime, member.mtime))
    return found


def _checked(member: tarfile.TarInfo, root: str, paths: "Sequence[str]") -> str:
    """Return the member's name, when we asked for it and it is harmless."""
    name = posixpath.normpath(member.name)
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or not any(_is_below(name, path) for path in paths):
        raise Failure(f"the guest sent {member.name!r}, which nobody asked for; nothing more was taken from it")
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise Failure(f"{name} in the guest is neither a file, a directory nor a link; nothing more was taken from it")
    parent = os.path.realpath(os.path.join(root, posixpath.dirname(name)))
    if not _is_within(parent, root):
        raise Failure(f"cannot bring back {name}: {posixpath.dirname(name)} leads out of {root}")
    if member.issym():
        target = os.path.normpath(os.path.join(parent, member.linkname))
        if member.linkname.startswith("/") or not _is_within(os.path.realpath(target), root):
            raise Failure(f"cannot bring back {name}: it links to {member.linkname!r}, outside of {root}")
    if member.islnk():
        linked = os.path.join(root, member.linkname)
        if ".." in member.linkname.split("/") or not any(
            _is_below(posixpath.normpath(member.linkname), p) for p in paths
        ):
            raise Failure(f"cannot bring back {name}: it is linked with {member.linkname!r}, which nobody asked for")
        if not _is_within(os.path.realpath(os.path.dirname(linked)), root) or os.path.islink(linked):
            raise Failure(f"cannot bring back {name}: it is linked with {member.linkname!r}, outside of {root}")
    return name


def _is_below(name: str, path: str) -> bool:
    return path in {".", name} or name.startswith(f"{path}/")


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    """Put one member where it belongs. The archive's own extraction would follow links that are there already."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if member.isdir():
        if os.path.islink(path) or not os.path.isdir(path):
            _remove(path)
            os.mkdir(path, 0o700)
        return
    _remove(path)
    if member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link(
            os.path.join(os.path.dirname(path), os.path.relpath(member.linkname, posixpath.dirname(member.name))), path
        )
        return
    else:
        content = archive.extractfile(member)
        assert content is not None
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            while chunk := content.read(1 << 20):
                file.write(chunk)
            os.fchmod(descriptor, member.mode & 0o777)
    os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
