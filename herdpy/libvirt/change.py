"""How libvirtd and virtlogd take it that they are declared otherwise while they run. Pure."""

import msgspec

from herdpy.libvirt.adjusting import CLIENTS, THREADS, Adjust, Server
from herdpy.libvirt.configuration_file import Value
from herdpy.libvirt.placing import PlaceFile
from herdpy.libvirt.reexecution import Reexecute
from herdpy.service import Context, Effect, Service

OF_THE_PROCESS = (
    *("provision", "log_file", "log_rotation", "guards", "aftermath", "one_shot"),
    *("companion", "attendant", "takes_arguments"),
)
"""Fields of a service that its process was spawned with, besides those of its attempt."""
LIVE = frozenset({*THREADS, *CLIENTS, "log_filters", "log_outputs"})
"""Keys of libvirtd.conf that a running libvirtd can be told of."""


class AdjustAndPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A step: tell the running daemon, then put the file in its place that the next one reads."""

    adjust: Adjust
    place: PlaceFile

    async def run(self, context: Context) -> None:
        """Do both.

        Raises:
            StartFailure: as each of them has it.
        """
        await self.adjust.run(context)
        await self.place.run(context)


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

    def effect(self, before: Service, after: Service) -> Effect:
        """What has to be done."""
        known = before.on_change
        if not isinstance(known, LibvirtdChange) or _spawned_otherwise(before, after):
            return RESTART
        changed = _differences(known.settings, self.settings)
        if changed != _differences(known.others, self.others) or not changed <= LIVE:
            return RESTART
        if not changed:
            return Effect(kind="now", words="takes effect now", step=Tell.of(before, after))
        words = f"is told of {', '.join(sorted(key.replace('_', '-') for key in changed))}, and runs on"
        return Effect(kind="now", words=words, step=AdjustAndPlace(adjust=self._adjust(changed), place=self.place))

    def _adjust(self, changed: set[str]) -> Adjust:
        return Adjust(
            daemon="libvirtd",
            directory=self.directory,
            servers=(Server(name="libvirtd", **_parameters(self.settings, changed)),),
            filters=str(self.settings["log_filters"]) if "log_filters" in changed else None,
            outputs=str(self.settings["log_outputs"]) if "log_outputs" in changed else None,
        )


RESTART = Effect(kind="restart", words="is restarted now; guests run on")


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
        step = ReexecuteAndAdjust(reexecute=self.reexecute, adjust=self._adjust(changed))
        return Effect(kind="now", words="executes itself anew", step=step)

    def _adjust(self, changed: set[str]) -> Adjust | None:
        servers = []
        for server, key in (("virtlogd", "max_clients"), ("admin", "admin_max_clients")):
            count = self.settings[key]
            if key in changed and isinstance(count, int):
                # It has no clients that are yet to prove themselves, and takes both numbers or none.
                servers.append(Server(name=server, clients=tuple((name, count) for name in CLIENTS.values())))
        return Adjust(daemon="virtlogd", directory=self.directory, servers=tuple(servers)) if servers else None


class ReexecuteAndAdjust(msgspec.Struct, frozen=True, kw_only=True):
    """A step: the re-execution, then what it does not bring about."""

    reexecute: Reexecute
    adjust: Adjust | None

    async def run(self, context: Context) -> None:
        """Do both.

        Raises:
            StartFailure: as each of them has it.
        """
        await self.reexecute.run(context)
        if self.adjust is not None:
            await self.adjust.run(context)


def _spawned_otherwise(before: Service, after: Service) -> bool:
    if [(way.process, way.notify) for way in before.attempts] != [(way.process, way.notify) for way in after.attempts]:
        return True
    return any(getattr(before, field) != getattr(after, field) for field in OF_THE_PROCESS)


def _differences(before: dict[str, Value], after: dict[str, Value]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _parameters(settings: dict[str, Value], changed: set[str]) -> dict[str, tuple[tuple[str, int], ...]]:
    """The parameters of the keys that changed; of keys that belong together all of them."""

    def of(keys: dict[str, str]) -> tuple[tuple[str, int], ...]:
        pairs = ((name, settings[key]) for key, name in keys.items())
        return tuple((name, value) for name, value in pairs if isinstance(value, int)) if changed & keys.keys() else ()

    return {"threads": of(THREADS), "clients": of(CLIENTS)}
