"""Mounting a file system, and unmounting it.

The work is mount(8)'s and umount(8)'s, which know helpers such as mount.nfs and names such as UUID=...; what is mounted
is read from /proc/self/mountinfo (proc(5)).
"""

import os
import re
from contextlib import suppress

import msgspec
import trio

from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

STATE = "mount"
"""The detail that says whose the mount is."""
FOUND = "was there already, and stays there"
MOUNTING = "being mounted"
PATIENCE = 60.0
"""Seconds for mount(8) and umount(8): a server that does not answer must not hold a start for ever."""
UNDOING = 10.0
"""Seconds for umount(8) after a start that came to nothing."""
ESCAPED = re.compile(r"\\([0-7]{3})")


class Entry(msgspec.Struct, frozen=True):
    """What is mounted on a directory."""

    device: str
    file_system: str
    is_read_only: bool


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """Mounts a file system, unless it is there already."""

    device: str
    mount_point: str
    file_system: str
    options: tuple[str, ...]
    create_mount_point: bool

    async def run(self, context: Context) -> None:
        there = await in_thread(self._look, abandon_on_cancel=True)
        if there is not None:
            if not await in_thread(self._is_as_declared, there, abandon_on_cancel=True):
                raise StartFailure(self._taken(there))
            before = context.details.get(STATE)
            if before is None:
                context.detail(STATE, FOUND)
            elif before == MOUNTING:  # by the last supervisor
                context.detail(STATE, "mounted")
            return
        if os.geteuid() != 0:
            raise StartFailure(self._for_root())
        await in_thread(self._see_to_directory, abandon_on_cancel=True)
        context.detail(STATE, MOUNTING)
        await context.keep_details()
        options = ["-o", ",".join(self.options)] if self.options else []
        command = ["mount", "-t", self.file_system, *options, "--", self.device, self.mount_point]
        try:
            await _run(context, command, f"{self.device} cannot be mounted on {self.mount_point}")
        except BaseException:  # mount(8) may have done it all the same
            context.detail(STATE, None)
            await self._undo(context)
            raise
        context.detail(STATE, "mounted")

    async def _undo(self, context: Context) -> None:
        with trio.move_on_after(UNDOING, shield=True), suppress(StartFailure):
            if await in_thread(self._look, abandon_on_cancel=True) is not None:
                await context.command(["umount", "--", self.mount_point])

    def lack(self) -> str | None:
        """What is wrong, and how to mend it; what is mounted there may be asked."""
        there = self._look()
        if there is not None:
            return None if self._is_as_declared(there) else self._taken(there)
        if os.geteuid() != 0:
            return self._for_root()
        return None if self.create_mount_point or os.path.isdir(self.mount_point) else self._no_directory()

    def _taken(self, there: Entry) -> str:
        how = ", writable" if self._is_too_writable(there) else ""
        what = f"{there.device} ({there.file_system}{how}) is mounted on {self.mount_point} already"
        return f"{what}; unmount it: umount {self.mount_point}"

    def _for_root(self) -> str:
        return f"only root can mount something on {self.mount_point}; let root's herdpy run it"

    def _no_directory(self) -> str:
        return f"there is no directory {self.mount_point}; make it, or set create-mount-point = true"

    def _look(self) -> Entry | None:
        return mounted_on(self.mount_point)

    def _is_as_declared(self, there: Entry) -> bool:
        if self._is_too_writable(there):
            return False
        if self.file_system == "none" or not {"bind", "rbind"}.isdisjoint(self.options):
            return _is_same_file(self.device, self.mount_point)  # it shows the device and the type of what is bound
        wanted = self.file_system.split(",")
        is_of_type = "auto" in wanted or not types_of(there.file_system).isdisjoint(wanted)
        return is_of_type and self._is_device(there.device)

    def _is_too_writable(self, there: Entry) -> bool:
        return "ro" in self.options and not there.is_read_only

    def _is_device(self, shown: str) -> bool:
        if self.device in {"none", shown} or "=" in self.device:
            return True
        return os.path.realpath(self.device) in {os.path.realpath(shown), _file_of_loop(shown)}

    def _see_to_directory(self) -> None:
        if os.path.isdir(self.mount_point):
            return
        if not self.create_mount_point:
            raise StartFailure(self._no_directory())
        try:
            os.makedirs(self.mount_point, 0o755)
        except OSError as error:
            raise StartFailure(f"cannot make the directory {self.mount_point}: {error.strerror}") from None


class Unmount(msgspec.Struct, frozen=True, kw_only=True):
    """Unmounts what :class:`Mount` has mounted; what was there before it stays."""

    mount_point: str

    async def run(self, context: Context) -> None:
        if context.details.get(STATE) == FOUND:
            return
        if await in_thread(mounted_on, self.mount_point, abandon_on_cancel=True) is None:
            return  # somebody else has done it
        advice = f"see who uses it: fuser -vm {self.mount_point}"
        await _run(context, ["umount", "--", self.mount_point], f"{self.mount_point} cannot be unmounted", advice)


async def _run(context: Context, command: list[str], failure: str, advice: str = "") -> None:
    with trio.move_on_after(PATIENCE):
        completed = await context.command(command)
        if completed.status == 0:
            return
        # Its last line is mostly a hint at the kernel's log; the reason is before that.
        lines = [line.strip() for line in completed.output.splitlines() if line.strip() and "dmesg" not in line]
        said = lines[-1].removeprefix(f"{command[0]}: ").removeprefix(f"{command[-1]}: ").rstrip(".") if lines else ""
        raise StartFailure("; ".join(filter(None, (f"{failure}: {said or 'no reason given'}", advice))))
    raise StartFailure(f"{failure}: {command[0]} was not done after {PATIENCE:g} s")


def mounted_on(mount_point: str) -> Entry | None:
    """What is mounted on a directory; of several, the last, which hides the others.

    What an automounter has there (on a host with systemd, on /proc/sys/fs/binfmt_misc) is made to mount what it shall.

    Raises:
        OSError: there is no /proc.
    """
    entry = _entry(mount_point)
    if entry is not None and entry.file_system == "autofs":
        try:
            os.listdir(mount_point)
        except OSError:
            return None
        entry = _entry(mount_point)
        if entry is not None and entry.file_system == "autofs":
            return None
    return entry


def types_of(shown: str) -> set[str]:
    """What mount(8) may have been told to mount, by the type that the kernel shows of it."""
    kind, _, program = shown.partition(".")
    if kind in ("fuse", "fuseblk"):  # mount.fuse3(8): -t PROGRAM and -t fuse.PROGRAM are the same
        return {shown, kind, program} if program else {shown, "fuse", "ntfs", "ntfs-3g"}
    return {shown, "nfs"} if shown == "nfs4" else {shown}  # nfs(5): the version is negotiated


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _file_of_loop(device: str) -> str | None:
    """The file that is behind a loop device (loop(4)), if it is one."""
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file", encoding="utf-8") as file:
            return file.read().removesuffix("\n")
    except OSError:
        return None


def _entry(mount_point: str) -> Entry | None:
    """Of a symlink, what is mounted where it leads to. Only what is not mounted is looked at: the server of what is may
    not answer."""
    return _listed(mount_point) or _listed(os.path.realpath(mount_point))


def _listed(mount_point: str) -> Entry | None:
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            fields = before.split()
            if _unescaped(fields[4]) == mount_point:
                file_system, device, options = after.split()[:3]
                is_read_only = "ro" in (*fields[5].split(","), *options.split(","))
                found = Entry(_unescaped(device), file_system, is_read_only)
    return found


def _unescaped(text: str) -> str:
    return ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
