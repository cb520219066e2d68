"""How libvirtd and virtlogd take it that they are declared otherwise while they run. Pure."""

import msgspec

from herdpy.libvirt.adjusting import ADMIN_CLIENTS, ADMIN_THREADS, CLIENTS, THREADS, Adjust, Server, Settings
from herdpy.libvirt.configuration_file import Value
from herdpy.libvirt.placing import PlaceFile
from herdpy.libvirt.reexecution import Reexecute
from herdpy.libvirt.rehearsal import Rehearsal
from herdpy.service import Context, Effect, Service, StartFailure, Step

OF_THE_PROCESS = (
    *("provision", "log_file", "log_rotation", "guards", "aftermath", "one_shot"),
    *("companion", "attendant", "takes_arguments"),
)
"""Fields of a service that its process was spawned with, besides those of its attempt."""
LIVE = frozenset({*THREADS, *CLIENTS, *ADMIN_THREADS, *ADMIN_CLIENTS, "log_filters", "log_outputs"})
"""Keys of libvirtd.conf that a running libvirtd can be told of."""
CLIENTS_OF_VIRTLOGD = {"virtlogd": "max_clients", "admin": "admin_max_clients"}
"""The key by each of virtlogd's servers, which keeps both numbers over a re-execution."""


class AdjustAndPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A step: tell the running daemon, then put the file in its place that the next one reads."""

    adjust: Adjust
    place: PlaceFile

    async def run(self, context: Context) -> None:
        """Do both.

        Raises:
            StartFailure: as each of them has it.
        """
        await _both(self.adjust, self.place, context)


class TryFile(msgspec.Struct, frozen=True, kw_only=True):
    """A step before a restart: a file with which libvirtd does not start must not take down the one that runs."""

    place: PlaceFile
    rehearsal: Rehearsal

    async def run(self, context: Context) -> None:
        """Try it.

        Raises:
            StartFailure: it does not start; why.
        """
        try:
            await self.place.try_it(context, self.rehearsal)
        except StartFailure as failure:
            raise StartFailure(f"it was not restarted: {failure}") from None


class Tell(msgspec.Struct, frozen=True, kw_only=True):
    """A step: have the status say what a start would have said."""

    details: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, before: Service, after: Service) -> "Tell":
        """The details of a start as it is declared now, and an end of those that are declared no longer."""
        known, wanted = dict(before.attempts[0].details), dict(after.attempts[0].details)
        return cls(details=tuple((key, wanted.get(key)) for key in {**known, **wanted}))

    async def run(self, context: Context) -> None:
        """Do so."""
        for key, value in self.details:
            context.detail(key, value)


class LibvirtdChange(msgspec.Struct, frozen=True, kw_only=True):
    """A restart, which guests do not notice, unless libvirtd can be told of all that has changed."""

    settings: dict[str, Value]
    others: dict[str, Value]
    """What the file says with polkit, and without."""
    directory: str | None
    """Of its sockets."""
    place: PlaceFile
    rehearsal: Rehearsal | None
    """How a file is tried before a restart; None where that could meet the one that runs."""

    def effect(self, before: Service, after: Service) -> Effect:
        """What has to be done."""
        known = before.on_change
        if not isinstance(known, LibvirtdChange) or _spawned_otherwise(before, after):
            return self._restart
        changed = _differences(known.settings, self.settings)
        if changed != _differences(known.others, self.others) or not changed <= LIVE:
            return self._restart
        if not changed:
            return Effect(kind="now", words="takes effect now", step=Tell.of(before, after))
        words = f"is told of {', '.join(sorted(key.replace('_', '-') for key in changed))}, and runs on"
        return Effect(
            kind="now", words=words, step=AdjustAndPlace(adjust=self._adjust(known.settings, changed), place=self.place)
        )

    @property
    def _restart(self) -> Effect:
        step = None if self.rehearsal is None else TryFile(place=self.place, rehearsal=self.rehearsal)
        return Effect(kind="restart", words="is restarted now; guests run on", step=step)

    def _adjust(self, known: dict[str, Value], changed: set[str]) -> Adjust:
        return Adjust(
            daemon="libvirtd",
            directory=self.directory,
            before=_told(known, changed),
            after=_told(self.settings, changed),
        )


class VirtlogdChange(msgspec.Struct, frozen=True, kw_only=True):
    """virtlogd executes itself anew; but a number of clients it keeps over that, and has to be told of."""

    settings: dict[str, Value]
    directory: str | None
    """Of its sockets."""
    reexecute: Reexecute

    def effect(self, before: Service, after: Service) -> Effect:
        """What has to be done."""
        known = before.on_change
        if not isinstance(known, VirtlogdChange) or _spawned_otherwise(before, after):
            return Effect(kind="next-start", words="takes effect at its next start, for guests' logs end with it")
        changed = _differences(known.settings, self.settings)
        if not changed:
            return Effect(kind="now", words="takes effect now")
        step = AdjustAndReexecute(adjust=self._adjust(known.settings, changed), reexecute=self.reexecute)
        return Effect(kind="now", words="executes itself anew", step=step)

    def _adjust(self, known: dict[str, Value], changed: set[str]) -> Adjust | None:
        keys = [(server, key) for server, key in CLIENTS_OF_VIRTLOGD.items() if key in changed]
        if not keys:
            return None
        before, after = (
            # It has no clients that are yet to prove themselves, and takes both numbers or none.
            tuple(
                Server(name=server, clients=_pairs(values, dict.fromkeys(CLIENTS.values(), key)))
                for server, key in keys
            )
            for values in (known, self.settings)
        )
        return Adjust(
            daemon="virtlogd",
            directory=self.directory,
            before=Settings(servers=before),
            after=Settings(servers=after),
        )


class AdjustAndReexecute(msgspec.Struct, frozen=True, kw_only=True):
    """A step: what the re-execution does not bring about, then that; all of it, or nothing."""

    adjust: Adjust | None
    reexecute: Reexecute

    async def run(self, context: Context) -> None:
        """Do both.

        Raises:
            StartFailure: as each of them has it.
        """
        await _both(self.adjust, self.reexecute, context)


async def _both(adjust: Adjust | None, then: Step, context: Context) -> None:
    """Tell the daemon, then do the rest; unless that can be done, too, it has again what it had."""
    if adjust is None:
        await then.run(context)
        return
    await adjust.run(context)
    try:
        await then.run(context)
    except BaseException:
        await adjust.take_back(context)
        raise


def _spawned_otherwise(before: Service, after: Service) -> bool:
    if [(way.process, way.notify) for way in before.attempts] != [(way.process, way.notify) for way in after.attempts]:
        return True
    return any(getattr(before, field) != getattr(after, field) for field in OF_THE_PROCESS)


def _differences(before: dict[str, Value], after: dict[str, Value]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _told(values: dict[str, Value], changed: set[str]) -> Settings:
    """What libvirtd is told of these values; of keys that belong together all of them."""

    def of(keys: dict[str, str]) -> tuple[tuple[str, int], ...]:
        return _pairs(values, {name: key for key, name in keys.items()}) if changed & keys.keys() else ()

    return Settings(
        servers=(
            Server(name="libvirtd", threads=of(THREADS), clients=of(CLIENTS)),
            Server(name="admin", threads=of(ADMIN_THREADS), clients=of(ADMIN_CLIENTS)),
        ),
        filters=str(values["log_filters"]) if "log_filters" in changed else None,
        outputs=str(values["log_outputs"]) if "log_outputs" in changed else None,
    )


def _pairs(values: dict[str, Value], keys: dict[str, str]) -> tuple[tuple[str, int], ...]:
    """(parameter, value) of each; ``keys`` are by parameter."""
    return tuple((name, value) for name, key in keys.items() if isinstance(value := values[key], int))
