"""Time zones, as functions from a moment to how far its wall clocks are ahead of UTC."""

import time
from collections.abc import Callable

Offset = Callable[[float], int]
"""From seconds since the epoch to the seconds that a wall clock of the zone is ahead of UTC then."""


class NoZone(Exception):  # noqa: N818 - it says what there is not
    """A time zone that is not in the host's database."""


def offset_of(name: str | None) -> Offset:
    """A time zone's offset function.

    Args:
        name: as in the time zone database: ``Europe/Lisbon``. None means the host's own zone, by localtime(3): that of
            TZ, else of /etc/localtime, as it is now.

    Raises:
        NoZone: there is none of that name, or no database.
    """
    if name is None:
        time.tzset()
        return lambda moment: time.localtime(moment).tm_gmtoff
    from datetime import UTC, datetime  # for those alone who name a zone
    from zoneinfo import ZoneInfo

    try:
        zone = ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:  # a directory, "../x", no such key
        raise NoZone(f"there is no time zone {name!r} in the time zone database of this host") from error

    def offset(moment: float) -> int:
        ahead = datetime.fromtimestamp(moment, UTC).astimezone(zone).utcoffset()
        assert ahead is not None
        return int(ahead.total_seconds())

    return offset
