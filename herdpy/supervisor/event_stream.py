"""The action ``events`` of herdpy itself: what happened, and then what happens, each event a line of JSON."""

import math
import time
from typing import TypeVar

from herdpy import protocol
from herdpy.protocol import Command, write_reply
from herdpy.sexp import Symbol
from herdpy.supervisor import events
from herdpy.supervisor.control import Client
from herdpy.supervisor.race import first
from herdpy.supervisor.registry import Registry

_Number = TypeVar("_Number", int, float)


class _Unclear(Exception):  # noqa: N818
    """Arguments that make no sense; ``str()`` says why."""


async def send_events(command: Command, client: Client, registry: Registry) -> None:
    """Answer ``events``: a reply whose messages are the last events, or with ``--follow`` a stream that never ends.

    Its arguments, beside ``--follow``: ``--last=N``, so many of the past; ``--since=TIME``, none from before that time
    (UNIX seconds); ``--after=TIME``, of what this supervisor remembers alone, none from before or at that time, for who
    has followed the last one until then; and the name of a service, for what concerns that one alone.
    """
    follow, last, since, after, service = False, events.KEPT, -math.inf, -math.inf, None
    try:
        for argument in command.arguments:
            key, _, value = argument.partition("=")
            if argument == "--follow":
                follow = True
            elif key == "--last":
                last = _number(argument, value, int)
            elif key == "--since":
                since = _number(argument, value, float)
            elif key == "--after":
                after = _number(argument, value, float)
            elif service is None and not argument.startswith("-"):
                service = argument
            else:
                taken = "--follow, --last=N, --since=TIME, --after=TIME and one service"
                raise _Unclear(f"events takes {taken}, not {argument}")
    except _Unclear as unclear:
        error = protocol.action_exception(command.action, command.service, str(unclear))
        await client.send(write_reply(error=error))
        return
    if service is not None and service in registry.by_name:
        service = registry.by_name[service].name
    with events.Follower(service) as follower:

        def asked_for(found: list[events.Event]) -> list[events.Event]:
            return [event for event in found if since <= event.time > after and event.concerns(service)]

        # What happens while the file is read is in the follower's queue, and in memory: told once, from there.
        now = events.recent()
        past = asked_for(now)
        if after == -math.inf and now[0].time >= since and len(past) < last:
            past = asked_for(await events.before(now, registry.own_log)) + past
        if service is not None and service not in registry.by_name and not past:
            await client.send(write_reply(error=protocol.service_not_found(Symbol(service))))
            return
        past = past[max(0, len(past) - last) :]
        if not follow:
            await client.send(write_reply([True], messages=map(events.as_json, past)))
            return

        async def tell() -> None:
            await client.send(protocol.write_events_begin(time.time()))
            for event in past:
                await client.send(_line(event), math.inf)
            while True:
                for event in await follower.next():
                    await client.send(_line(event), math.inf)

        await first(tell, client.gone)


def _line(event: events.Event) -> bytes:
    return protocol.write_event(event.time, events.as_json(event))


def _number(argument: str, value: str, kind: type[_Number]) -> _Number:
    try:
        number = kind(value)
    except ValueError:
        raise _Unclear(f"events cannot make a number of {argument}") from None
    if not number >= 0:  # nor NaN
        raise _Unclear(f"events takes no negative number, and {argument} has one")
    return number
