"""The guest's image: what it is made of, where it is kept, and the step that builds it.

An image is a directory that is named by its recipe's key and holds ``disk.qcow2``, ``vmlinuz``, ``initrd`` and
``recipe.json``. It appears whole, by a rename, or not at all. The work itself is ``guest/build.sh``, run in namespaces
of its own (unshare(1)), so that neither its mounts nor its processes can outlive it; as an ordinary user it is root of
a user namespace, for which the system must have given the user subordinate ids (subuid(5)).
"""

import functools
import hashlib
import os
import pwd
import re
import shutil
import sys
from collections import deque
from collections.abc import Collection, Iterator, Sequence

import msgspec
import trio

from herdpy.qemu.apt_sources import find_sources
from herdpy.qemu.build_output import progress_reader, reason
from herdpy.service import ActionContext, Context, StartFailure
from herdpy.threads import in_thread

KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check random.trust_cpu=on mitigations=off "
    "cryptomgr.notests maxcpus=1"
)
"""The kernel's command line that the image is made for, without the host name (``herdpy.hostname=NAME``).

Under emulation the last three take a third off the processor time until the guest is ready for its secrets (6.5 s to
4 s): with ``maxcpus=1`` it boots on one processor, and brings up the others itself before it says that it is there.
``acpi=noirq`` saves as much, and leaves the guest with one processor for ever. Meanings:
Documentation/admin-guide/kernel-parameters.txt of the kernel.
"""

PACKAGES = ("build-essential", "busybox-static", "ca-certificates", "netbase", "openssh-server", "qemu-guest-agent")
"""What every image has: what builds, and what the guest itself runs on."""

ALMOST_FULL = 32 * 1024 * 1024
"""Bytes: with so few left a file system is taken for full."""

KERNELS = {"amd64": "linux-image-cloud-amd64"}
"""Debian's kernel for virtual machines, by architecture; its modules are in guest/initrd.py."""

SPACE_NEEDED = 1400 * 1024 * 1024
"""Bytes that must be free where an image is built: measured 1.1 GiB, without further packages."""

GUEST = os.path.join(os.path.dirname(__file__), "guest")

PROGRAMS = {
    "apt-get": "apt",
    "debugfs": "e2fsprogs",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "unshare": "util-linux",
}
"""What the build runs, and the package that each is in; an ordinary user needs newuidmap of uidmap too."""

TEMPORARY = ".building-"

SILENCE = 5 * 60.0
"""Seconds without a line from a build after which it is given up. Its longest silence, the unpacking of the base
system, is 10 s here; apt gives up a server that is silent after two minutes."""

LINKS = "of"
"""Below the directory of images: a link for each machine to the image it was last started from."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an image's bytes depend on, besides the day's packages."""

    suite: str = "bookworm"
    size: int = 10 * 1024**3
    """Of the virtual disk, bytes."""
    packages: tuple[str, ...] = ()
    """Debian packages beyond :data:`PACKAGES`."""
    architecture: str = "amd64"
    sources: tuple[str, ...] = ()
    """Lines of sources.list(5); empty means: where the host's own apt gets Debian from. Which mirror that is does not
    change the key: a mirror has the same packages as another."""


class Image(msgspec.Struct, frozen=True):
    """An image's files."""

    directory: str

    @property
    def disk(self) -> str:
        return os.path.join(self.directory, "disk.qcow2")

    @property
    def kernel(self) -> str:
        return os.path.join(self.directory, "vmlinuz")

    @property
    def initrd(self) -> str:
        return os.path.join(self.directory, "initrd")

    @property
    def recipe(self) -> str:
        return os.path.join(self.directory, "recipe.json")

    def is_complete(self) -> bool:
        """Whether every file is there."""
        return all(os.path.isfile(path) for path in (self.disk, self.kernel, self.initrd, self.recipe))


def key(recipe: Recipe) -> str:
    """The name of the cache entry: 32 hexadecimal digits of a checksum of the recipe and of herdpy's part in it."""
    canonical = msgspec.structs.replace(recipe, packages=tuple(sorted(set(recipe.packages))))
    return hashlib.sha256(msgspec.json.encode((canonical, PACKAGES, guest_checksum()))).hexdigest()[:32]


@functools.cache
def guest_checksum() -> str:
    """Of everything in guest/: the scripts, and the files that are laid over Debian's."""
    checksum = hashlib.sha256()
    for path in _files(GUEST):
        with open(path, "rb") as file:
            checksum.update(f"{os.path.relpath(path, GUEST)}\0{hashlib.sha256(file.read()).hexdigest()}\n".encode())
    return checksum.hexdigest()


def parse_size(size: int | str) -> int | None:
    """Bytes, from a number or one with K, M, G or T (powers of 1024); None when it is neither, or below 1 GiB."""
    match = re.fullmatch(r"([1-9][0-9]*)([KMGT]?)(?:i?B)?", str(size))
    if match is None:
        return None
    count = int(match[1]) * 1024 ** (" KMGT".index(match[2]) if match[2] else 0)
    return count if 1024**3 <= count <= 16 * 1024**4 else None


def command(recipe: Recipe, directory: str, sources: Sequence[str], *, is_root: bool) -> tuple[str, ...]:
    """The command that builds ``directory/KEY``.

    Args:
        recipe: what to build.
        directory: where images are kept, absolute.
        sources: lines of sources.list(5): the recipe's own, or what :func:`find_sources` found.
        is_root: whether no user namespace is needed.
    """
    packages = ",".join(sorted({*PACKAGES, *recipe.packages}))
    record = {"recipe": recipe, "packages": packages.split(","), "sources": sources, "guest": guest_checksum()}
    return (
        *namespaces(is_root=is_root),
        *("sh", os.path.join(GUEST, "build.sh"), directory, key(recipe)),
        *(recipe.suite, str(recipe.size), recipe.architecture, KERNELS[recipe.architecture], packages),
        *(sys.executable, msgspec.json.encode(record, order="sorted").decode()),
        *sources,
    )


def namespaces(*, is_root: bool) -> tuple[str, ...]:
    """What runs a command in mount and process namespaces of its own, as root of a user namespace where need be.

    With ``--kill-child`` all its processes are killed when unshare is (unshare(1)).
    """
    user = () if is_root else ("--user", "--map-root-user", "--map-auto")
    return ("unshare", *user, "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--")


class BuildImage(msgspec.Struct, frozen=True, kw_only=True):
    """A step: returns when the image of a recipe is there, and builds it when it is not."""

    recipe: Recipe
    directory: str
    """Where images are kept."""
    link: str | None = None
    """A symbolic link that is to lead to the image, so that :class:`PruneImages` leaves it alone."""

    async def run(self, context: Context) -> None:
        """Build the image unless it is there. Services that want the same one wait for one build.

        Raises:
            StartFailure: something is missing or went wrong; nothing but what was there before is left.
        """
        name = key(self.recipe)
        image = Image(os.path.join(self.directory, name))
        if not image.is_complete():
            await context.once(f"image {image.directory}", self._build)
        if self.link is not None:
            try:
                _point(self.link, image.directory)
            except OSError as error:
                raise StartFailure(f"cannot make the link {self.link}: {error.strerror}") from None

    def lack(self) -> str | None:
        """What is missing to build it, and how to get it; nothing when it is there."""
        if Image(os.path.join(self.directory, key(self.recipe))).is_complete():
            return None
        return lacking(self.recipe, is_root=os.geteuid() == 0)

    async def _build(self, context: Context) -> None:
        context.progress("building the image: preparing", 0.0)
        environment = {**os.environ, "LC_ALL": "C", "PATH": _path()}
        is_root = os.geteuid() == 0
        check(self.recipe, self.directory, is_root=is_root)
        sources = self.recipe.sources or await find_sources(context, self.recipe.suite, environment=environment)
        read, said = progress_reader(), deque[str](maxlen=400)

        silence = trio.CancelScope(deadline=trio.current_time() + SILENCE)

        def on_line(line: str) -> None:
            silence.deadline = trio.current_time() + SILENCE
            said.append(line)
            if stage := read(line):
                context.progress(f"building the image: {stage[0]}", stage[1])

        arguments = command(self.recipe, self.directory, sources, is_root=is_root)
        is_done = False
        try:
            with silence:
                completed = await context.command(arguments, environment=environment, directory="/", on_line=on_line)
                is_done = completed.status == 0
        finally:
            if not is_done:
                # build.sh does this itself, unless it was killed.
                with trio.move_on_after(60, shield=True):
                    await sweep(context, self.directory, [TEMPORARY + key(self.recipe)], patience=10)
        if silence.cancelled_caught:
            raise StartFailure(f"cannot build its image: {_why_silent(self.directory, said)}")
        if not is_done:
            why = reason("\n".join(said), completed.status, self.directory)
            raise StartFailure(f"cannot build its image: {why}", [line for line in said if line.strip()][-10:])


def _why_silent(directory: str, said: Sequence[str]) -> str:
    """Why a build may have gone silent: apt does at times when the disk is full, and then waits for ever."""
    if (free := os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize) < ALMOST_FULL:
        return f"there is no space left in {directory}: free some, or move herdpy's state directory"
    last = next((line for line in reversed(said) if line.strip()), "nothing")
    return f"silent for {SILENCE / 60:g} minutes ({free // 1024**2} MiB are free); the last it said: {last}"


def lacking(recipe: Recipe, *, is_root: bool) -> str | None:
    """What this host lacks to build an image, and how to get it; None when nothing."""
    if recipe.architecture not in KERNELS:
        return f"cannot build an image for {recipe.architecture}: herdpy knows a kernel for {', '.join(KERNELS)} only"
    wanted = PROGRAMS if is_root else {**PROGRAMS, "newuidmap": "uidmap", "newgidmap": "uidmap"}
    missing = sorted({package for program, package in wanted.items() if shutil.which(program, path=_path()) is None})
    if missing:
        tool = "program" if len(missing) == 1 else "programs"
        names = ", ".join(program for program, package in wanted.items() if package in missing)
        return f"cannot build its image without the {tool} {names}: apt-get install {' '.join(missing)}"
    if not is_root:
        user = pwd.getpwuid(os.getuid()).pw_name
        if not all(_has_subordinates(path, user) for path in ("/etc/subuid", "/etc/subgid")):
            return (
                f"cannot build its image as {user}, who has no subordinate ids (subuid(5)): as root, "
                f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} (any free range of 65536)"
            )
    return None


def check(recipe: Recipe, directory: str, *, is_root: bool) -> None:
    """See that an image can be built here, and make the directory it is to be in.

    Raises:
        StartFailure: a program, the permission, subordinate ids or space is missing.
    """
    lack = lacking(recipe, is_root=is_root)
    if lack is not None:
        raise StartFailure(lack)
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        filesystem = os.statvfs(directory)
    except OSError as error:
        raise StartFailure(f"cannot make the directory of images {directory}: {error.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StartFailure(f"cannot build its image in {directory}: it is not writable; check its owner and mode")
    free = filesystem.f_bavail * filesystem.f_frsize
    if free < SPACE_NEEDED:
        raise StartFailure(
            f"cannot build its image: {directory} has {free // 1024**2} MiB free, and needs "
            f"{SPACE_NEEDED // 1024**2} MiB; free some, or move herdpy's state directory"
        )


async def sweep(context: Context, directory: str, names: Collection[str], *, patience: int = 0) -> None:
    """Remove temporary directories of builds that are no more; one that is at work holds its lock, and is left alone.

    They may hold files of subordinate ids, which only a user namespace's root can remove.

    Args:
        context: what runs the command.
        directory: where images are kept.
        names: of the temporary directories.
        patience: seconds to wait for each lock.

    Raises:
        StartFailure: unshare(1) cannot be executed.
    """
    there = [name for name in names if os.path.isdir(os.path.join(directory, name))]
    if there:
        script = os.path.join(GUEST, "sweep.sh")
        await context.command(
            [*namespaces(is_root=os.geteuid() == 0), "sh", script, directory, str(patience), *there],
            environment={**os.environ, "PATH": _path()},
            directory="/",
        )


async def prune(context: Context, directory: str, keep: Collection[str]) -> list[str]:
    """Remove the images whose key is not in ``keep``, and what interrupted builds have left.

    Returns:
        The keys of what was removed.

    Raises:
        StartFailure: something cannot be removed.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StartFailure(f"cannot read the directory of images {directory}: {error.strerror}") from None
    await sweep(context, directory, [name for name in names if name.startswith(TEMPORARY)])
    doomed = sorted(name for name in names if re.fullmatch(r"[0-9a-f]{32}", name) and name not in keep)
    for name in doomed:
        try:
            await in_thread(shutil.rmtree, os.path.join(directory, name))
        except OSError as error:
            raise StartFailure(f"cannot remove the image {error.filename}: {error.strerror}") from None
    return doomed


class PruneImages(msgspec.Struct, frozen=True):
    """An action: removes the images that no machine's link leads to."""

    directory: str

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> None:
        """Remove them, and tell of each.

        Raises:
            StartFailure: one cannot be removed.
        """
        removed = await prune(context, self.directory, _linked(os.path.join(self.directory, LINKS)))
        for name in removed:
            context.print(f"Removed the image {os.path.join(self.directory, name)}.")
        if not removed:
            context.print("Every image is some machine's: nothing removed.")


def _linked(links: str) -> list[str]:
    """The keys of the images that the links in a directory lead to."""
    if not os.path.isdir(links):
        return []
    return [os.path.basename(os.readlink(entry.path)) for entry in os.scandir(links) if entry.is_symlink()]


def _path() -> str:
    """PATH, with the directories of mke2fs and its like, which an ordinary user's does not have."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _has_subordinates(path: str, user: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            entries = [line.strip().split(":") for line in file]
    except OSError:
        return False
    names = {user, str(os.getuid())}
    return any(len(entry) == 3 and entry[0] in names and int(entry[2] or 0) >= 65535 for entry in entries)


def _point(link: str, target: str) -> None:
    """Make a symbolic link, or make it lead elsewhere, in one step."""
    try:
        if os.readlink(link) == target:
            return
    except OSError:
        os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
    beside = f"{link}.{os.getpid()}"
    if os.path.lexists(beside):
        os.unlink(beside)
    os.symlink(target, beside)
    os.replace(beside, link)


def _files(directory: str) -> Iterator[str]:
    for path, directories, names in os.walk(directory):
        directories[:] = sorted(set(directories) - {"__pycache__"})
        yield from (os.path.join(path, name) for name in sorted(names))
