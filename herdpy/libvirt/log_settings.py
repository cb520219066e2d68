"""What libvirt's daemons take for log filters and outputs (https://libvirt.org/logging.html)."""

import os
from collections.abc import Callable

PRIORITIES = {"1": "debug", "2": "information", "3": "warnings", "4": "errors"}


def filters_problem(text: str) -> str | None:
    """What is wrong with ``3:remote 4:event``, in words; None when nothing is."""
    return _first_problem(text, _filter_problem)


def outputs_problem(text: str) -> str | None:
    """What is wrong with ``3:stderr 1:file:/var/log/x.log``, in words; None when nothing is."""
    return _first_problem(text, _output_problem)


def _first_problem(text: str, problem_of: Callable[[str], str | None]) -> str | None:
    for word in text.split(" "):
        if word and (problem := problem_of(word)):
            return f"{word!r}: {problem}"
    return None


def _filter_problem(word: str) -> str | None:
    level, colon, name = word.partition(":")
    if not colon:
        return 'expected LEVEL:NAME, such as "3:remote"'
    if problem := _level_problem(level):
        return problem
    if not name.removeprefix("+"):
        return "the name of what is to be filtered is missing after the colon"
    if ":" in name or not name.isprintable():
        return "a filter is a level, one colon and a name"
    return None


def _output_problem(word: str) -> str | None:
    level, _, rest = word.partition(":")
    if problem := _level_problem(level):
        return problem
    destination, colon, name = rest.partition(":")
    if not word.isprintable():
        return "it holds a character that cannot be printed"
    match destination:
        case "stderr" | "journald":
            return f"nothing follows {destination}" if colon else None
        case "syslog":
            return None if name and ":" not in name else "expected LEVEL:syslog:NAME"
        case "file":
            if ":" in name:
                return "the path of a log file cannot hold a colon"
            return None if os.path.isabs(name) else "expected LEVEL:file:PATH with an absolute path"
    return f"there is no output {destination!r}; there are stderr, syslog:NAME, file:PATH and journald"


def _level_problem(level: str) -> str | None:
    if level in PRIORITIES:
        return None
    levels = ", ".join(f"{number} ({words})" for number, words in PRIORITIES.items())
    return f"expected a level before the first colon, {levels}; got {level!r}"
