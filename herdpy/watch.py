"""Waiting for something to happen at a path, without looking there again and again (inotify(7)).

One inotify instance serves everyone: a user may have 128 of them (fs.inotify.max_user_instances), and more daemons than
that can be starting at once. What another machine does on a network's file system inotify does not tell.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from herdpy.service import StartFailure
from herdpy.threads import in_thread

if TYPE_CHECKING:
    import inotify_simple

_Seen = TypeVar("_Seen")

_Place = tuple[int, str | None]
"""A watch descriptor, and a name in that directory; None means what is watched itself."""


_Way = tuple[str, str | None]
"""Likewise, with the directory's path."""

MOST_LINKS = 40
"""On the way to a file (path_resolution(7))."""


class Watch:
    """What happens at one path, be it that a directory on the way to it appears, is moved or is removed."""

    def __init__(self, path: str, inotify: "_Inotify", *, entries: bool) -> None:
        self.path = path
        self.entries = entries
        self._inotify = inotify
        self._happened = trio.Event()

    async def look(self, look: Callable[[], _Seen]) -> _Seen:
        """Begin to watch, then look: what happens from now on ends the next :meth:`change`.

        Args:
            look: called in a thread, which is left to itself when we are cancelled: a file system may hang.

        Raises:
            StartFailure: the kernel does not let us watch anything more.
        """
        self._happened = trio.Event()

        def arm_and_look() -> _Seen:
            self._inotify.arm(self)
            return look()

        return await in_thread(arm_and_look, abandon_on_cancel=True)

    async def change(self) -> None:
        """Wait until something has happened since the last look began; it need not be what one waits for."""
        await self._happened.wait()

    def tell(self) -> None:
        """End the waiting."""
        self._happened.set()


class _Inotify:
    """The inotify instance. A system task reads it; that task and the threads of looks share the tables."""

    def __init__(self) -> None:
        import ctypes

        import inotify_simple

        # Else it would have ldconfig find the C library, as a child of ours, while everybody waits.
        inotify_simple._libc = inotify_simple._libc or ctypes.CDLL(None, use_errno=True)
        flags = inotify_simple.flags
        # That it is moved or removed is told of its name in the directory above.
        itself = flags.ATTRIB | flags.MASK_ADD
        self._of_directory = int(
            itself | flags.CREATE | flags.MOVED_TO | flags.DELETE | flags.MOVED_FROM | flags.ONLYDIR
        )
        self._of_entries = int(self._of_directory | flags.CLOSE_WRITE)
        self._of_file = int(itself | flags.MODIFY)
        self._is_gone = int(flags.IGNORED)
        self._events_lost = int(flags.Q_OVERFLOW)
        self._inotify = inotify_simple.INotify(nonblocking=True)
        self._lock = threading.Lock()
        self._watching: dict[int, dict[str | None, set[Watch]]] = {}
        """Who watches which names, by watch descriptor."""
        self._places: dict[Watch, set[_Place]] = {}
        """Of each watch."""
        self._arming: set[Watch] = set()
        """Those of which a thread may have a descriptor already that the tables do not know yet."""
        trio.lowlevel.spawn_system_task(self._read, name="inotify")

    def begin(self, path: str, *, entries: bool) -> Watch:
        watch = Watch(path, self, entries=entries)
        self._places[watch] = set()
        return watch

    def end(self, watch: Watch) -> None:
        with self._lock:
            for place in self._places.pop(watch):
                self._forget(watch, place)

    def arm(self, watch: Watch) -> None:
        """Watch each directory on the way for the next one, as far as they are there, and the file for its content.

        Called in a thread; the watch may have ended before it is done.
        """
        with self._lock:
            self._arming.add(watch)
        places: set[_Place] = set()
        try:
            for path, name in _way(watch.path):
                try:
                    places.add((self._add(path, self._mask(watch, name)), name))
                except PermissionError:
                    continue  # one that we may pass but not read
                except OSError:  # not there, or a link to itself by now: the directory above tells when that changes
                    break
        finally:
            with self._lock:
                self._arming.discard(watch)
                known = self._places.get(watch)
                for descriptor, name in places:
                    self._watching.setdefault(descriptor, {}).setdefault(name, set()).add(watch)
                for place in places if known is None else known - places:
                    self._forget(watch, place)
                if known is not None:
                    self._places[watch] = places

    def _mask(self, watch: Watch, name: str | None) -> int:
        if name is not None:
            return self._of_directory
        return self._of_entries if watch.entries else self._of_file

    def _add(self, path: str, mask: int) -> int:
        try:
            descriptor: int = self._inotify.add_watch(path, mask)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            next_step = "raise fs.inotify.max_user_watches with sysctl"
            raise StartFailure(f"cannot watch {path}: this user watches too many files; {next_step}") from None
        return descriptor

    def _forget(self, watch: Watch, place: _Place) -> None:
        descriptor, name = place
        names = self._watching.get(descriptor, {})
        names.get(name, set()).discard(watch)
        if not names.get(name):
            names.pop(name, None)
        if not names and self._watching.pop(descriptor, None) is not None:
            try:
                self._inotify.rm_watch(descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # what was watched is gone, and its descriptor with it
                    raise

    async def _read(self) -> None:
        with self._inotify:
            while True:
                await trio.lowlevel.wait_readable(self._inotify.fd)
                for event in self._inotify.read(timeout=0):
                    for watch in self._concerned(event):
                        watch.tell()

    def _concerned(self, event: "inotify_simple.Event") -> set[Watch]:
        with self._lock:
            if event.mask & self._events_lost:
                return set(self._places)
            names = self._watching.get(event.wd, {})
            if event.mask & self._is_gone:
                self._watching.pop(event.wd, None)
            if not event.name:
                return self._arming.union(*names.values())
            # Who watches the directory itself wants to know of whatever is in it.
            return self._arming | names.get(event.name, set()) | names.get(None, set())


def _way(path: str) -> Iterator[_Way]:
    """Each directory on the way to a path with the name that is looked for there, the targets of links among them, and
    at the end the file itself; it is followed while one goes along."""
    ahead = path.split("/")[::-1]
    at = "/"
    links = 0
    while ahead:
        name = ahead.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        yield at, name
        try:
            target = os.readlink(os.path.join(at, name))
        except OSError:  # no link, or not there
            at = os.path.join(at, name)
            continue
        links += 1
        if links > MOST_LINKS:
            return
        ahead += target.split("/")[::-1]
        at = "/" if target.startswith("/") else at
    yield at, None


_instance: trio.lowlevel.RunVar[_Inotify] = trio.lowlevel.RunVar("inotify")


@contextmanager
def watching(path: str, *, entries: bool = False) -> Iterator[Watch]:
    """Watch an absolute path for as long as the block runs.

    Args:
        entries: whether it is a directory, of which it matters what files there are and what is written into them.

    Raises:
        StartFailure: there can be no inotify instance.
    """
    try:
        inotify = _instance.get()
    except LookupError:
        try:
            inotify = _Inotify()
        except (OSError, ImportError) as error:  # the latter where there are no descriptors left
            why = error.strerror if isinstance(error, OSError) else error.msg
            next_step = "raise fs.inotify.max_user_instances with sysctl, or the limit nofile of herdpy"
            raise StartFailure(f"cannot watch {path}: {why}; {next_step}") from None
        _instance.set(inotify)
    watch = inotify.begin(path, entries=entries)
    try:
        yield watch
    finally:
        inotify.end(watch)
