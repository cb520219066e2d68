"""The init system that has started us, if it wants to hear how we are (sd_notify(3)), watches over us
(sd_watchdog_enabled(3)) or has made our socket (sd_listen_fds(3)): systemd, or one that does the same.

It hears our main process only, which is why the supervisor says through us what it has to say.
"""

from __future__ import annotations

import _socket
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from herdpy.keeper.companion import Companion
    from herdpy.keeper.loop import Loop

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""
RETRY = 0.5
"""Seconds until it is told again what it has had no room for."""
DOUBT = 3 / 8
CERTAINTY = 1 / 2
"""Of the watchdog's time, without a word from the supervisor, which says one each quarter of it."""
MOST_UNSAID = 64
"""Messages that wait for that; then the oldest are forgotten."""


class InitSystem:
    """What it wants of us.

    Attributes:
        address: its socket, as in NOTIFY_SOCKET; None when it does not want to hear of us.
        watchdog: seconds within which we have to say WATCHDOG=1 again; None when we need not.
        sockets: so many descriptors, from 3 on, it has passed to us.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None, sockets: int = 0) -> None:
        self.address = address
        self.watchdog = None if address is None else watchdog
        self.sockets = sockets
        self._socket: _socket.socket | None = None
        self._unsaid: list[str] = []

    @classmethod
    def of(cls, environment: dict[str, str]) -> InitSystem:
        """Return what a process's environment says of it, and take that out: it is for nobody else."""
        address = environment.pop("NOTIFY_SOCKET", None)
        watchdog = environment.pop("WATCHDOG_USEC", "")
        is_watched = watchdog.isdecimal() and _is_for_us(environment.pop("WATCHDOG_PID", None))
        count = environment.pop("LISTEN_FDS", "")
        are_passed = count.isdecimal() and _is_for_us(environment.pop("LISTEN_PID", ""))
        environment.pop("LISTEN_FDNAMES", None)
        return cls(
            address if address is not None and address[:1] in ("/", "@") else None,
            int(watchdog) / 1e6 if is_watched and int(watchdog) > 0 else None,
            int(count) if are_passed else 0,
        )

    def told(self) -> dict[str, object]:
        """Return what our successor is to know."""
        return {"address": self.address, "watchdog": self.watchdog}

    def tell(self, text: str) -> bool:
        """Tell it something: lines of VARIABLE=VALUE. It never blocks, and loses nothing while the other one is there.

        Returns:
            Whether it has taken everything; if not, :meth:`tell_again` is to be called.
        """
        if self.address is None:
            return True
        if text not in self._unsaid:
            self._unsaid.append(text)
        del self._unsaid[:-MOST_UNSAID]
        return self.tell_again()

    def tell_again(self) -> bool:
        """Tell what it has not taken yet; returns as :meth:`tell`."""
        if self._socket is None:
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        assert self.address is not None
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        while self._unsaid:
            try:
                self._socket.sendto(self._unsaid[0].encode("utf-8", "backslashreplace"), name)
            except BlockingIOError:
                return False
            except OSError:
                pass  # nobody is there to hear it
            del self._unsaid[0]
        return True


class Watchdog:
    """Passes on to the init system what the supervisor says, and ends one that says nothing any more.

    A supervisor that hangs is ended by us, after half of the watchdog's time: what runs does not notice. Should we hang
    ourselves, the init system ends us after the whole of it. Nothing wakes us up for it but the supervisor, and a
    timer when that fails to.
    """

    def __init__(
        self, loop: Loop, init: InitSystem, supervisor: Callable[[], Companion], say: Callable[[str], None]
    ) -> None:
        """Begin; ``supervisor`` returns the one there is now."""
        self._loop = loop
        self._init = init
        self._supervisor = supervisor
        self._say = say
        self._has_spoken = False  # the supervisor there is now
        self._is_known = False
        self._silences = 0
        self._wait()

    def tell(self, text: str) -> None:
        """Tell the init system something, now or as soon as it takes it."""
        if not self._init.tell(text):
            self._loop.after(RETRY, "init", self._tell_again)

    def _tell_again(self) -> None:
        if not self._init.tell_again():
            self._loop.after(RETRY, "init", self._tell_again)

    def pass_on(self, text: str) -> None:
        """Tell what the supervisor says; so it is well."""
        self._has_spoken, self._silences = True, 0
        self.tell(text)
        self._wait()

    def begin(self) -> None:
        """There is a new supervisor."""
        self._has_spoken, self._is_known, self._silences = False, False, 0

    def know(self) -> None:
        """It has said hello: from now on it is known to work, and may have nothing to say ever."""
        self._is_known = True

    def _wait(self) -> None:
        if self._init.watchdog is not None:
            self._loop.cancel("watchdog")
            self._loop.after(DOUBT * self._init.watchdog, "watchdog", self._doubt)

    def _doubt(self) -> None:
        """It ought to have said something by now. But all of us may have stood still (a frozen cgroup, a paused virtual
        machine): then it is about to."""
        assert self._init.watchdog is not None
        self._loop.after((CERTAINTY - DOUBT) * self._init.watchdog, "watchdog", self._be_certain)

    def _be_certain(self) -> None:
        """It has said nothing. One that has just begun may take twice as long."""
        assert self._init.watchdog is not None
        self.tell("WATCHDOG=1")
        self._silences += 1
        supervisor = self._supervisor()
        if supervisor.pid is not None and (self._has_spoken or (not self._is_known and self._silences > 1)):
            seconds = self._silences * CERTAINTY * self._init.watchdog
            self._say(f"the supervisor (PID {supervisor.pid}) has said nothing for {seconds:g} s: killing it")
            supervisor.kill()
        self._wait()


def is_neighbour(pid: int) -> bool:
    """Tell whether a process lives, in the cgroup that we are in ourselves: then it is of the same unit."""
    try:
        with open("/proc/self/cgroup", "rb") as ours, open(f"/proc/{pid}/cgroup", "rb") as theirs:
            return ours.read() == theirs.read()
    except OSError:
        return False


def as_told(said: Mapping[str, object] | None) -> InitSystem:
    """Return what :meth:`InitSystem.told` told."""
    address, watchdog = (said or {}).get("address"), (said or {}).get("watchdog")
    return InitSystem(
        address if isinstance(address, str) else None,
        float(watchdog) if isinstance(watchdog, (int, float)) else None,
    )


def _is_for_us(pid: str | None) -> bool:
    """Tell whether a PID is ours; none at all means whoever reads it."""
    return pid is None or pid == str(os.getpid())
