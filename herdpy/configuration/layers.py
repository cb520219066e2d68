"""Reading declarations from their directories, and laying the layers over one another."""

import os
import stat
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from herdpy.catalogue.common import name_problem
from herdpy.mistake import Mistake, printable

READ = 16 * 1024
"""Bytes that are read at a time. Room for the largest at once would be mapped and unmapped for each file."""
LARGEST = 1 << 20
"""Bytes. A declaration is a page of text; what is larger is something else."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer says of one declaration."""

    name: str
    file: str
    text: str
    table: dict[str, Any]


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """A file that should say something, but cannot be read."""

    name: str
    mistake: Mistake


def list_layer(directory: str, *, only_roots: bool) -> dict[str, str] | Unread:
    """The files of one directory's declarations, by their names. A directory that does not exist has none.

    Hidden files and those that do not end in ``.toml`` (editors leave ``x.toml~``) are not declarations.

    Args:
        only_roots: whether to refuse what anybody but root could have written, since root would run it.
    """
    if only_roots and os.path.islink(directory.rstrip("/")):
        there = f"--services {printable(os.path.realpath(directory))}"
        return _unread("", directory, f"a symbolic link, and root would run what is there; say {there} instead")
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
        status = os.stat(directory)
    except FileNotFoundError:
        return {}
    except OSError as error:
        return _unread("", directory, f"cannot be read: {error.strerror}")
    # In a sticky directory nobody replaces the files of others, and each file is looked at by itself.
    if only_roots and not status.st_mode & stat.S_ISVTX and (problem := _others_write(status, directory)):
        return _unread("", directory, problem)
    return {
        name.removesuffix(".toml"): os.path.join(directory, name)
        for name in names
        if name.endswith(".toml") and not name.startswith(".")
    }


def list_file(name: str, file: str, *, only_roots: bool) -> dict[str, str] | Unread:
    """As :func:`list_layer`, of one file by itself, which need not exist."""
    if not os.path.lexists(file):
        return {}
    directory = os.path.dirname(file)
    if only_roots:
        try:
            status = os.stat(directory)
        except OSError as error:
            return _unread(name, directory, f"cannot be read: {error.strerror}")
        if not status.st_mode & stat.S_ISVTX and (problem := _others_write(status, directory)):
            return _unread(name, directory, problem)
    return {name: file}


def read_file(name: str, file: str, *, only_roots: bool) -> Source | Unread | None:
    """One file by itself; None when there is none.

    Args:
        name: what to call what it says.
        only_roots: as :func:`list_layer` has it.
    """
    listed = list_file(name, file, only_roots=only_roots)
    if isinstance(listed, Unread):
        return listed
    return read_listed(name, file, only_roots=only_roots) if listed else None


def merge(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """The older layer's table with the newer one's laid over it: keys override, tables merge, lists replace."""
    merged = dict(older)
    for key, value in newer.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _unread(name: str, file: str, problem: str, line: int = 0) -> Unread:
    return Unread(name=name, mistake=Mistake(file=file, line=line, problem=problem))


def read_listed(name: str, file: str, *, only_roots: bool) -> Source | Unread:
    """A file that was listed, with what was listed along with it."""
    if problem := name_problem(name):
        return _unread(name, file, f"not a service's name: {problem}; rename the file")
    try:
        content = _content(file, only_roots=only_roots)
    except _Refused as refusal:
        return _unread(name, file, str(refusal))
    except OSError as error:
        return _unread(name, file, f"cannot be read: {error.strerror}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _unread(name, file, f"not UTF-8 text: byte 0x{content[error.start]:02x}", line)
    try:
        return Source(name=name, file=file, text=text, table=tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        problem, line = _syntax_error(str(error), text)
        return _unread(name, file, problem, line)
    except RecursionError:
        return _unread(name, file, "nested too deeply")
    except ValueError as error:
        # A whole number of more digits than Python converts (sys.set_int_max_str_digits).
        return _unread(name, file, f"cannot be read: {error}")


class _Refused(Exception):  # noqa: N818
    """A file whose content is not even looked at; ``str()`` says why."""


def _content(file: str, *, only_roots: bool) -> bytes:
    # O_NONBLOCK: opening a FIFO would wait for a writer. It changes nothing for a file.
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        if os.path.islink(file):
            raise _Refused(f"a symbolic link to {printable(os.readlink(file))}, which does not exist") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Refused("a directory, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if only_roots and (problem := _others_write(status, file)):
            raise _Refused(problem)
        content = b""
        while len(content) <= LARGEST and (chunk := os.read(descriptor, READ)):
            content += chunk
        if len(content) > LARGEST:
            raise _Refused(f"larger than {LARGEST >> 20} MiB, which no declaration is")
        return content
    finally:
        os.close(descriptor)


def _others_write(status: os.stat_result, path: str) -> str | None:
    """Why root cannot trust what is there, with the way to mend it; None when only root can write it."""
    if status.st_uid != 0:
        return f"belongs to UID {status.st_uid}, and root would run what it says; chown root {printable(path)}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        others = "all" if status.st_mode & stat.S_IWOTH else "its group"
        mode = stat.S_IMODE(status.st_mode)
        return f"writable by {others} (mode {mode:o}), and root would run what it says; chmod go-w {printable(path)}"
    return None


def _syntax_error(message: str, text: str) -> tuple[str, int]:
    """(problem, line) from tomllib's ``Expected ... (at line 3, column 5)``."""
    problem, _, place = message.removesuffix(")").rpartition(" (at ")
    if not problem:
        return message, 0
    problem = problem[0].lower() + problem[1:]
    if place.startswith("line "):
        line, _, column = place.removeprefix("line ").partition(", column ")
        return f"not TOML: {problem} (column {column})", int(line)
    return f"not TOML: {problem} (at the end of the file)", text.count("\n") + 1
