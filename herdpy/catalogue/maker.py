"""The type ``maker``: a service that makes services when asked: ``herd spawn transient``, ``herd schedule timer``.

Actions, options and the names of the two that are always there are those of GNU Shepherd 1.0.
"""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from herdpy.catalogue.common import NAME_CHARACTERS, Common, Declaration, ServiceType, as_service, name_problem
from herdpy.catalogue.facts import HostFacts
from herdpy.service import Action, ActionContext, ActionFailure, Service, plain

OPTIONS: Mapping[str, str] = {
    "--user": "user",
    "--group": "group",
    "--directory": "directory",
    "--working-directory": "directory",
    "-d": "directory",
    "--environment": "environment",
    "--environment-variable": "environment",
    "-E": "environment",
    "--log-file": "log-file",
    "--name": "name",
    "--service-name": "name",
    "-N": "name",
}
"""What may stand before the command; each takes a value."""
USAGE = {
    "spawn": "herd spawn {maker} [OPTION...] -- COMMAND...",
    "schedule": "herd schedule {maker} at TIME|in DURATION [OPTION...] -- COMMAND...",
}
LONGEST_NAME = 40
"""Characters of a program's name that go into a service's."""


class MakerConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``maker``."""

    makes: Literal["transient", "timer"]
    """``"transient"``: services that run a command until it has ended (``herd spawn NAME -- COMMAND``). ``"timer"``:
    services that run one at a certain time (``herd schedule NAME at 07:00 -- COMMAND``). To stop the maker stops all
    that it has made."""


class Asked(msgspec.Struct, frozen=True):
    """What the arguments of ``spawn`` and ``schedule`` ask for."""

    words: tuple[str, ...]
    """What stands there besides: when to run."""
    options: dict[str, str | dict[str, str]]
    """By the keys of declarations."""
    command: tuple[str, ...]


def asked(arguments: Sequence[str]) -> Asked:
    """Read the arguments of ``spawn`` and ``schedule``: what is before ``--`` and the command after it.

    Raises:
        ValueError: with what is wrong, in words.
    """
    if "--" not in arguments:
        raise ValueError("the command is missing: it follows --")
    end = list(arguments).index("--")
    command = tuple(arguments[end + 1 :])
    if not command:
        raise ValueError("the command is missing: nothing follows --")
    words: list[str] = []
    options: dict[str, str | dict[str, str]] = {}
    before = iter(arguments[:end])
    for word in before:
        if not word.startswith("-") or word == "-" or word[1].isdecimal():  # -5 is no option, but no duration either
            words.append(word)
            continue
        option, value = _option(word, before)
        key = OPTIONS[option]
        if key == "environment":
            name, equals, text = value.partition("=")
            if not equals or not name:
                raise ValueError(f"{option} takes a variable as NAME=VALUE, and {value!r} is none")
            variables = options.setdefault(key, {})
            assert isinstance(variables, dict)
            variables[name] = text
        elif key in options:
            raise ValueError(f"{option} is given twice")
        else:
            options[key] = value
    return Asked(tuple(words), options, command)


def _option(word: str, following: Iterator[str]) -> tuple[str, str]:
    if word.startswith("--"):
        option, equals, value = word.partition("=")
    else:
        option, equals, value = word[:2], word[2:], word[2:]  # -E NAME=VALUE, -ENAME=VALUE
    if option not in OPTIONS:
        known = ", ".join(key for key in OPTIONS if key.startswith("--"))
        raise ValueError(f"there is no option {option}; there are {known}")
    if not equals:
        value = next(following, "")
        if not value:
            raise ValueError(f"{option} needs a value")
    return option, value


def moment(words: Sequence[str], now: float) -> datetime:
    """The moment, with its time zone, that ``at 07:00``, ``at 2026-12-01T07:00`` or ``in 2 hours`` means.

    Args:
        now: seconds since the epoch.

    Raises:
        ValueError: with what is wrong, in words.
    """
    from herdpy.timer.duration import LONGEST, seconds_in

    match words:
        case ("in", *rest) if rest:
            seconds = seconds_in(" ".join(rest))
            if seconds is None:
                raise ValueError(f"{' '.join(rest)!r} is no duration, such as: 2 hours, 1h30m, 90s")
            return datetime.fromtimestamp(now + seconds).astimezone()
        case ("at", *rest) if rest:
            text = " ".join(rest)
            found = _at(text, now)
            if found is None:
                raise ValueError(f"{text!r} is no time, such as: 07:00, 2026-12-01T07:00")
            if found.timestamp() < now:
                raise ValueError(f"{found.isoformat(sep=' ')} has passed")
            if found.timestamp() > now + LONGEST:
                raise ValueError(f"{found.isoformat(sep=' ')} is more than a hundred years away")
            return found
    raise ValueError("it takes a time: at TIME, or in DURATION")


def _at(text: str, now: float) -> datetime | None:
    from herdpy.timer.schedule import Calendar, moment_of, next_due
    from herdpy.timer.zone import offset_of

    offset = offset_of(None)
    hour, _, rest = text.partition(":")
    minute, _, second = rest.partition(":")
    parts = [hour, minute, *([second] if second or text.count(":") > 1 else [])]
    if text.count(":") in {1, 2} and all(part.isdecimal() and part.isascii() and len(part) <= 2 for part in parts):
        numbers = [int(part) for part in parts]
        if numbers[0] > 23 or max(numbers[1:]) > 59:
            return None
        hours, minutes, seconds = [*numbers, 0][:3]
        line = f"{seconds} {minutes} {hours} * * *"
        due = next_due(Calendar(line=line, both_days=True, is_steady=False), now, offset)
        return None if due is None else datetime.fromtimestamp(due).astimezone()
    try:
        read = datetime.fromisoformat(text)
        return datetime.fromtimestamp(moment_of(read, offset)).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


class Spawn(msgspec.Struct, frozen=True):
    """Run a command as a service of its own, until it has ended."""

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Register and start it; the answer is its name.

        Raises:
            ActionFailure: the arguments make no service.
            StartFailure: it cannot be started.
        """
        try:
            wanted = asked(arguments)
            if wanted.words:
                raise ValueError(f"{' '.join(wanted.words)!r}: it takes options, and after -- the command")
        except ValueError as problem:
            raise _usage(problem, "spawn", context) from None
        name = await _make(context, wanted, "process", {"respawn": False})
        context.print(f"Service {name} has been started: {shlex.join(wanted.command)}")
        return name


class Schedule(msgspec.Struct, frozen=True):
    """Run a command once, at a certain time, as a service of its own."""

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Register and start the timer; the answer is its name.

        Raises:
            ActionFailure: the arguments make no timer.
            StartFailure: it cannot be started.
        """
        import time

        try:
            wanted = asked(arguments)
            at = moment(wanted.words, time.time())
        except ValueError as problem:
            raise _usage(problem, "schedule", context) from None
        name = await _make(context, wanted, "timer", {"at": at})
        context.print(
            f"Service {name} runs at {at.isoformat(sep=' ', timespec='seconds')}: {shlex.join(wanted.command)}"
        )
        return name


def _usage(problem: ValueError, action: str, context: ActionContext) -> ActionFailure:
    return ActionFailure(f"{problem}; usage: {USAGE[action].format(maker=context.name)}")


async def _make(context: ActionContext, wanted: Asked, type_name: str, more: Mapping[str, object]) -> str:
    options = dict(wanted.options)
    name = options.pop("name", None)
    if name is None:
        name = _free_name(context, wanted.command[0])
    else:
        assert isinstance(name, str)
        if problem := name_problem(name):
            raise ActionFailure(f"{name!r}: {problem}")
        if context.is_registered(name):
            raise ActionFailure(f"there is a service {name} already; choose another --name")
    configuration = {
        "command": wanted.command,
        "documentation": f"Run {os.path.basename(wanted.command[0])}, as was asked of {context.name}.",
        "requirement": [context.name],
        "transient": True,
        **more,
        **options,
    }
    declaration = {"name": name, "source": "", "type": type_name, "configuration": configuration}
    await context.register(name, msgspec.json.encode(declaration).decode())
    return name


def _free_name(context: ActionContext, program: str) -> str:
    """``transient-make``, or with a number if that is taken."""
    plainly = "".join(letter for letter in os.path.basename(program) if letter in NAME_CHARACTERS)[:LONGEST_NAME]
    name = stem = f"{context.name}-{plainly or 'command'}"
    number = 1
    while context.is_registered(name):
        number += 1
        name = f"{stem}-{number}"
    return name


SPAWN = Action(
    name="spawn",
    documentation=f"Run a command in the background, as a service: {USAGE['spawn'].format(maker='SERVICE')}.",
    operation=Spawn(),
    right="full",
)
SCHEDULE = Action(
    name="schedule",
    documentation=f"Run a command once, at a certain time: {USAGE['schedule'].format(maker='SERVICE')}.",
    operation=Schedule(),
    right="full",
)


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service, which is only a state and an action."""
    configuration: MakerConfiguration = declaration.configuration
    makes_timers = configuration.makes == "timer"
    what = "Run commands at certain times" if makes_timers else "Run commands in the background"
    return (
        as_service(
            declaration,
            documentation=f"{what}, each as a service of its own.",
            actions=(SCHEDULE if makes_timers else SPAWN,),
            facts=(plain("type", "type", declaration.type), plain("makes", "makes", configuration.makes)),
        ),
    )


TYPE = ServiceType(
    name="maker",
    configuration=MakerConfiguration,
    services=services,
    documentation="Makes services when asked: `transient` and `timer`, which are always there, are two of them.",
)
