"""How a service of registered platforms takes it that it is declared otherwise while it runs. Pure."""

import msgspec

from herdpy.binfmt.entry import PREFIX, Entry
from herdpy.binfmt.registration import Become
from herdpy.service import Effect, Service


class PlatformsChange(msgspec.Struct, frozen=True, kw_only=True):
    """Just the difference is registered and removed."""

    entries: tuple[Entry, ...]

    def effect(self, before: Service, after: Service) -> Effect:
        """What has to be done."""
        known = before.on_change
        if not isinstance(known, PlatformsChange):
            return Effect(kind="restart", words="is restarted now")
        old = {entry.name: entry for entry in known.entries}
        new = {entry.name: entry for entry in self.entries}
        done = {
            "registers": new.keys() - old.keys(),
            "registers anew": {name for name in new.keys() & old.keys() if new[name] != old[name]},
            "removes": old.keys() - new.keys(),
        }
        words = "; ".join(
            f"{verb} {', '.join(sorted(name.removeprefix(PREFIX) for name in names))}"
            for verb, names in done.items()
            if names
        )
        if not words:
            return Effect(kind="now", words="takes effect now")
        return Effect(kind="now", words=words, step=Become(before=known.entries, after=self.entries))
