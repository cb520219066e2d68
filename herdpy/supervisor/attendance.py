"""A service's attendant while the service runs, and what it may ask of the supervisor."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import trio

from herdpy.service import ActionFailure, Attendant, Connection, End, Request, StartFailure
from herdpy.supervisor import processes
from herdpy.supervisor.context import StepContext
from herdpy.supervisor.line import Held
from herdpy.supervisor.log import log
from herdpy.supervisor.race import first

if TYPE_CHECKING:
    from herdpy.supervisor.life import Life
    from herdpy.supervisor.registry import Registry


class Question:
    """Something asked of an attendant (``herdpy.service.Request``)."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments
        self.answered = trio.Event()
        self.text = ""
        self.is_refused = False

    def answer(self, text: str) -> None:
        self.text = text
        self.answered.set()

    def refuse(self, reason: str) -> None:
        self.is_refused = True
        self.answer(reason)


class Attendance:
    """Runs an attendant from its service's start to its stop, or in the next supervisor from there on.

    Args:
        attendant: what to run.
        left: the processes that its predecessor in another supervisor was executing, by their keys.
        remember: keeps a text for its successor.
        on_end: told when it has ended by itself.
    """

    def __init__(
        self,
        attendant: Attendant,
        life: "Life",
        registry: "Registry",
        left: Mapping[str, Held],
        remember: Callable[[str], Awaitable[None]],
        nursery: trio.Nursery,
        on_end: Callable[[], None],
    ) -> None:
        self.end: End | None = None
        self._name = life.name
        self._on_end = on_end
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self._questions, inbox = trio.open_memory_channel[Question](math.inf)
        self._context = _Context(life, registry, dict(left), remember, inbox)
        nursery.start_soon(self._run, attendant)

    async def _run(self, attendant: Attendant) -> None:
        try:
            with self._scope:
                self.end = await attendant.run(self._context)
        except StartFailure as failure:
            self.end = End(reason=str(failure))
        except Exception as error:
            log("attendant-crashed", service=self._name, exc_info=error)
            self.end = End(reason=f"a mistake in herdpy: {type(error).__name__}: {error}; herdpy's log has the details")
        self._gone.set()
        if not self._scope.cancelled_caught:
            self._on_end()

    def become(self, attendant: Attendant) -> bool:
        """Let it go on as another one; whether it does."""
        become = self._context.become
        return become is not None and not self._gone.is_set() and become(attendant)

    async def leave(self) -> None:
        """End it, with the processes that it executes, and wait until it has ended."""
        self._scope.cancel()
        await self._gone.wait()

    async def ask(self, arguments: tuple[str, ...]) -> str:
        """Ask it, and wait for its answer.

        Raises:
            ActionFailure: it refused, or has ended meanwhile.
        """
        question = Question(arguments)
        self._questions.send_nowait(question)
        await first(question.answered.wait, self._gone.wait)
        if not question.answered.is_set():
            raise ActionFailure(f"{self._name} was stopped meanwhile")
        if question.is_refused:
            raise ActionFailure(question.text)
        return question.text


class _Context(StepContext):
    """What an attendant may ask (``herdpy.service.AttendantContext``)."""

    def __init__(
        self,
        life: "Life",
        registry: "Registry",
        left: dict[str, Held],
        remember: Callable[[str], Awaitable[None]],
        questions: trio.MemoryReceiveChannel[Question],
    ) -> None:
        super().__init__(life, registry)
        self.left = tuple(left)
        self._left = left
        self._remember = remember
        self._questions = questions
        self.become: Callable[[Attendant], bool] | None = None
        self.connections = life.connections

    async def remember(self, text: str) -> None:
        await self._remember(text)

    async def resume(self, key: str, *, on_end: Callable[[End], Awaitable[None]] | None = None) -> End:
        held = self._left.pop(key)
        return await processes.run_out(self._registry.line, held, self._life.service.stop, self.name, on_end)

    async def incoming(self, number: int) -> None:
        await self._life.sockets.incoming(number)

    async def accept(self, number: int) -> Connection | None:
        return await self._life.sockets.accept(number)

    async def drop(self, connection: Connection) -> None:
        await self._life.sockets.drop(connection)

    def adapt(self, become: Callable[[Attendant], bool]) -> None:
        self.become = become

    async def request(self) -> Request:
        return await self._questions.receive()

    def log(self, event: str, **fields: object) -> None:
        log(event, service=self.name, **fields)
