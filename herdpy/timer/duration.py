"""Durations as people write them: ``90``, ``"15m"``, ``"1h30m"``, ``"2 hours"``."""

UNITS = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
}
"""Seconds in each."""

LONGEST = 100 * 365.25 * 86400
"""Seconds. What is longer is a slip of the pen, and more than some clocks can take."""


def seconds_in(duration: float | str) -> float | None:
    """The seconds that a duration means; None when it means none, or more than a hundred years."""
    total = _sum(duration) if isinstance(duration, str) else float(duration)
    return total if total is not None and 0 <= total <= LONGEST else None


def _sum(text: str) -> float | None:
    total = 0.0
    rest = text.strip().lower()
    if not rest:
        return None
    while rest:
        digits = _leading(rest, "0123456789.")
        rest = rest[len(digits) :].lstrip()
        unit = _leading(rest, "abcdefghijklmnopqrstuvwxyz")
        rest = rest[len(unit) :].lstrip()
        if unit not in UNITS or len(digits) > 12 or digits.count(".") > 1 or not digits.strip("."):
            return None
        total += float(digits) * UNITS[unit]
    return total


def _leading(text: str, characters: str) -> str:
    return text[: len(text) - len(text.lstrip(characters))]


def in_words(seconds: float) -> str:
    """``1 h 30 min``, ``4.2 s``, ``3 days``: its two largest units, to be read at a glance."""
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 59.95 else "60 s"
    whole = round(seconds)
    for size, name, smaller, smaller_name in ((86400, "day", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            count, rest = divmod(whole, size)
            plural = "s" if name == "day" and count != 1 else ""
            more = f" {rest // smaller} {smaller_name}" if rest >= smaller else ""
            return f"{count} {name}{plural}{more}"
    raise AssertionError(seconds)
