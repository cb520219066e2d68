"""What libvirtd is asked: whether its drivers are up, and what runs."""

from collections.abc import Sequence

import msgspec
import trio

from herdpy.libvirt.places import runtime_directory, uri
from herdpy.libvirt.rpc import Domain, NoAnswer, connect
from herdpy.service import ActionContext, ActionFailure, ProcessContext, StartFailure

PATIENCE = 10.0
"""Seconds for an answer to a question that takes libvirtd milliseconds."""


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """Where libvirtd is asked."""

    directory: str | None
    """As :func:`~herdpy.libvirt.places.runtime_directory` takes it."""
    is_root: bool

    async def domains(self) -> list[Domain]:
        """What runs.

        Raises:
            NoAnswer: libvirtd does not tell.
        """
        async with await connect(f"{runtime_directory(self.directory)}/libvirt-sock") as connection:
            await connection.open(uri(is_root=self.is_root))
            domains = await connection.domains()
            await connection.close()
        return domains

    async def answer(self) -> None:
        """Wait until the drivers are up.

        Raises:
            NoAnswer: libvirtd refuses.
        """
        async with await connect(f"{runtime_directory(self.directory)}/libvirt-sock") as connection:
            await connection.open(uri(is_root=self.is_root))
            await connection.close()


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
        context.progress("waiting for libvirtd's drivers")
        try:
            await self.socket.answer()
        except NoAnswer as problem:
            # That of a process which is about to end says less than its end will.
            with trio.move_on_after(1.0):
                await trio.sleep_forever()
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
