"""What libvirtd is asked: whether its drivers are up, and what runs.

Procedures and structures are of libvirt's remote_protocol.x; those used here are as they were in libvirt 0.9.13, which
is what the protocol promises.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import trio

from herdpy.libvirt.places import runtime_directory, uri
from herdpy.libvirt.rpc import Connection, NoAnswer, connect, number, optional_string
from herdpy.service import ActionContext, ActionFailure, ProcessContext, StartFailure

PROGRAM = 0x20008086
OPEN, CLOSE, AUTH_LIST, AUTH_POLKIT, LIST_ALL_DOMAINS = 1, 2, 66, 70, 273
BY_NOTHING, BY_SASL, BY_POLKIT = 0, 1, 2
"""How one may have to prove oneself (remote_auth_type)."""
READ_ONLY = 1
"""How a connection is to be (virConnectFlags)."""
ACTIVE = 1
STATES = (("running", 16), ("paused", 32), ("in another state", 128 | ACTIVE))
"""What a domain that runs does, and the flags that list those (virConnectListAllDomainsFlags)."""
PATIENCE = 10.0
"""Seconds for an answer to a question that takes libvirtd milliseconds."""
UUID_SIZE = 16

_Told = TypeVar("_Told")


class Domain(msgspec.Struct, frozen=True):
    """A domain that runs."""

    name: str
    id: int
    """What libvirtd counts it by; another one after each start."""
    state: str


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """Where libvirtd is asked."""

    directory: str | None
    """As :func:`~herdpy.libvirt.places.runtime_directory` takes it."""
    is_root: bool
    only_looks: bool = False
    """Whether it is the socket for looking: all that we ask can be asked there, too."""

    async def domains(self) -> list[Domain]:
        """What runs.

        Raises:
            NoAnswer: libvirtd does not tell.
        """
        return await self._ask(_domains)

    async def answer(self) -> None:
        """Wait until the drivers are up.

        Raises:
            NoAnswer: libvirtd refuses.
        """
        await self._ask(_nothing)

    async def _ask(self, question: Callable[[Connection], Awaitable[_Told]]) -> _Told:
        name, flags = ("libvirt-sock-ro", READ_ONLY) if self.only_looks else ("libvirt-sock", 0)
        async with await connect(f"{runtime_directory(self.directory)}/{name}", PROGRAM) as connection:
            await _prove(connection)
            await connection.call(OPEN, optional_string(uri(is_root=self.is_root)), number(flags))
            told = await question(connection)
            await connection.call(CLOSE)  # libvirtd logs an error of one who just hangs up
            return told


async def _prove(connection: Connection) -> None:
    """Prove who we are: to polkit, root is root."""
    told = await connection.call(AUTH_LIST)
    ways = [told.number() for _ in range(told.count())]
    if BY_SASL in ways:
        raise NoAnswer("it demands a name and a password (SASL), and herdpy has none")
    if BY_POLKIT in ways and BY_NOTHING not in ways:
        await connection.call(AUTH_POLKIT)


async def _domains(connection: Connection) -> list[Domain]:
    found = []
    for state, flags in STATES:
        told = await connection.call(LIST_ALL_DOMAINS, number(1), number(flags))
        for _ in range(told.count()):
            name = told.string()
            told.take(UUID_SIZE)
            found.append(Domain(name, told.number(), state))
    return found


async def _nothing(connection: Connection) -> None:
    """That it was opened is the answer."""


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """libvirtd is ready when it has opened a connection: READY=1 only means that it listens, and that its drivers have
    failed it says by ending with 0, a moment later."""

    socket: Socket
    demands_password: bool
    """Whether it would want a name and a password from us (SASL): then that it listens has to do."""

    async def run(self, context: ProcessContext) -> None:
        """Ask, and wait for the answer; the attempt's time bounds it.

        Raises:
            StartFailure: it refuses.
        """
        if self.demands_password:
            return
        context.progress("waiting for its drivers")
        try:
            await self.socket.answer()
        except NoAnswer as problem:
            # That it is about to end tells more: its end cancels us.
            await trio.sleep(1.0)
            raise StartFailure(f"libvirtd does not answer: {problem}") from None


class Domains(msgspec.Struct, frozen=True, kw_only=True):
    """The operation of the action ``domains``."""

    socket: Socket

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Show what runs: a line for each domain.

        Raises:
            ActionFailure: libvirtd does not tell, or arguments were given.
        """
        if arguments:
            raise ActionFailure(f"it takes no arguments, and {' '.join(arguments)} was given")
        if not context.is_running:
            raise ActionFailure(f"{context.name} does not run; start it with: herd start {context.name}")
        try:
            with trio.fail_after(PATIENCE):
                domains = await self.socket.domains()
        except NoAnswer as problem:
            raise ActionFailure(f"libvirtd does not tell what runs: {problem}") from None
        except trio.TooSlowError:
            raise ActionFailure(f"libvirtd has not answered for {PATIENCE:g} s") from None
        if not domains:
            context.print("No domain runs.")
        width = max((len(domain.name) for domain in domains), default=0)
        for domain in sorted(domains, key=lambda domain: domain.id):
            context.print(f"{domain.id:>4}  {domain.name:<{width}}  {domain.state}")
        return None
