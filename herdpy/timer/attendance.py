"""What a timer does while its service runs: one task waits for moments, one answers, one minds the run under way.

All of them change one :class:`Memory`, without a lock: each changes it in one go, then has it remembered. What is
about to be done is remembered before it is done, so that a supervisor that takes over does it neither twice nor not
at all.
"""

import time
from functools import partial

import msgspec
import trio

from herdpy.service import Attendant, AttendantContext, End, Request, StartFailure
from herdpy.threads import in_thread
from herdpy.timer import words
from herdpy.timer.attendant import RunOnSchedule
from herdpy.timer.duration import in_words
from herdpy.timer.memory import RUNS_KEPT, Memory, Record, Run, Why, read_memory, read_record, write_record
from herdpy.timer.timing import Schedule, Timing
from herdpy.timer.zone import NoZone

PUNCTUAL = 60.0
"""Seconds. Who is less late is not called late: the host was busy, or had just woken up."""
DISK_PATIENCE = 2.0
"""Seconds that anything waits for the record to be on disk: a disk that hangs stops no timer."""
CLEARING_PATIENCE = 10.0
"""Seconds for what is done after each run."""
UPCOMING = 5
"""Moments to come that are told."""


async def attend(timer: RunOnSchedule, context: AttendantContext) -> End:
    """Run a timer until it is never due again; cancelling stops what it runs.

    Raises:
        StartFailure: its time zone is gone from the host.
    """
    try:
        timing = Timing(timer.schedule, context.name, timer.jitter)
    except NoZone as problem:
        raise StartFailure(str(problem)) from None
    timings = [timing]
    try:
        async with trio.open_nursery() as nursery:
            end = await _Attendance(timer, context, timings, nursery).attend()
            nursery.cancel_scope.cancel()
    finally:
        for timing in timings:
            timing.alarm.close()
    return end


def _kept(schedule: Schedule) -> str:
    return msgspec.json.encode(schedule).decode()


class _Attendance:
    def __init__(
        self, timer: RunOnSchedule, context: AttendantContext, timings: list[Timing], nursery: trio.Nursery
    ) -> None:
        self._timer = timer
        self._context = context
        self._timings = timings
        """The one that it goes by, after those that it went by, and that nobody has closed yet."""
        self._nursery = nursery
        anchor = self._timing.anchor
        self._memory = Memory(anchor=anchor, last=anchor, schedule=_kept(timer.schedule))
        self._pause = trio.CancelScope()
        """Of the wait for what is due next."""
        self._limit: float | None = None
        """The max-duration of the run that is under way."""
        self._scope = trio.CancelScope()
        """Of the run that is under way."""
        self._stopped_because: str | None = None
        """Why we are stopping that."""
        self._run: Run | None = None
        """The run that is under way, until all that belongs to its end is done; the memory forgets it earlier."""
        self._idle = trio.Event()
        """Set while there is none."""
        self._idle.set()
        self._due: float | None = None
        """When the next run begins, in seconds of the schedule's clock."""
        self._pen = trio.CapacityLimiter(1)
        """Of the thread that writes the record: one that hangs is not overtaken."""

    @property
    def _timing(self) -> Timing:
        return self._timings[-1]

    async def attend(self) -> End:
        self._context.adapt(self._become)
        remembered = read_memory(self._context.memory)
        if remembered is not None:
            await self._take_over(remembered)
        else:
            await self._begin_anew()
        self._nursery.start_soon(self._answer)
        while True:
            timing = self._timing
            await self._keep_time()
            while self._run is not None:  # another one may have begun before this task was told
                await self._idle.wait()
            if timing is self._timing:
                break
        last = self._memory.past[0] if self._memory.past else None
        if last is None:
            return End(reason="it was due before it was started, and never is again", wanted=True)
        return End(reason=f"it is not due again; its last run: {last.reason}", wanted=True, code=last.code)

    # The beginning.

    async def _begin_anew(self) -> None:
        if self._timer.record is not None:
            await self._read_record(self._timer.record)
        if self._timer.makes_up:
            self._memory.last = 0.0
        if self._timer.at_start:
            await self._want("at start", time.time())
        await self._remember()

    async def _read_record(self, path: str) -> None:
        memory = self._memory
        record = None
        try:
            with trio.move_on_after(DISK_PATIENCE):
                record = await in_thread(read_record, path, abandon_on_cancel=True)
        except (OSError, ValueError) as error:
            self._context.log("timer-record-not-read", record=path, reason=error)
        if record is None:
            await self._write_record()
        else:
            memory.past = record.past[:RUNS_KEPT]
            memory.last = memory.anchor = self._timing.anchor = self._timing.of_wall(record.last)

    async def _take_over(self, memory: Memory) -> None:
        """Go on where a predecessor in another supervisor ended."""
        self._memory = memory
        if memory.schedule in ("", _kept(self._timer.schedule)):
            self._timing.anchor = memory.anchor
        else:  # its declaration was changed meanwhile
            self._count_anew()
        run, waiting = memory.current, memory.waiting
        for key in self._context.left:
            if run is None or key != run.key:
                self._nursery.start_soon(self._put_away, key)
        if run is not None:
            self._take_up(run)
            self._spawn(run)
            if waiting is not None and self._timer.overlap == "stop-old":
                self._stop_old()
        elif waiting is not None:
            await self._begin(waiting)

    async def _put_away(self, key: str) -> None:
        """Stop a process that nobody knows anything of: what we had remembered of it was lost."""
        with trio.CancelScope() as scope:
            scope.cancel()
            await self._context.resume(key)

    # Another declaration.

    def _become(self, attendant: Attendant) -> bool:
        """Go by what is declared now."""
        if not isinstance(attendant, RunOnSchedule):
            return False
        before, self._timer = self._timer, attendant
        if (before.schedule, before.jitter) != (attendant.schedule, attendant.jitter):
            anchor = self._timing.anchor
            self._timings.append(Timing(attendant.schedule, self._context.name, attendant.jitter))
            if before.schedule == attendant.schedule:
                self._timing.anchor = anchor
            else:
                self._count_anew()
            self._pause.cancel()
        return True

    def _count_anew(self) -> None:
        """Let nothing have been due before now: the schedule is another one, perhaps of another clock."""
        self._memory.last = self._memory.anchor = self._timing.anchor
        self._memory.schedule = _kept(self._timer.schedule)

    # Waiting.

    async def _keep_time(self) -> None:
        """Run when it is due, and return when it never is again."""
        memory = self._memory
        while True:
            if len(self._timings) > 1:
                await self._write_record()
                await self._remember()
            while len(self._timings) > 1:
                self._timings.pop(0).alarm.close()
            timing = self._timing
            memory.last = timing.mend(memory.last)
            now = timing.alarm.now()
            missed = timing.latest(memory.last, now)
            due = timing.next(max(now, memory.last)) if missed is None else missed
            self._due = None if due is None else timing.delayed(due)
            await self._tell()
            if self._due is None or due is None:
                return
            is_set = False
            with trio.CancelScope() as self._pause:
                is_set = not await timing.alarm.wait(self._due)
            if timing is not self._timing:
                continue
            if is_set:
                self._context.log("clock-was-set", now=words.moment(time.time()))
                continue
            now = timing.alarm.now()
            due = timing.latest_begun(due, now)  # it may have woken up late: of all that was due, only the last is run
            memory.last = due
            await self._is_due(due, now - timing.delayed(due))

    async def _is_due(self, due: float, late: float) -> None:
        at = self._timing.wall(due)
        if late <= PUNCTUAL:
            await self._want("scheduled", at)
        elif self._timer.catch_up is None or late <= self._timer.catch_up:
            await self._want("made up for", at)
        else:
            await self._leave_out("made up for", at, f"left out: {in_words(late)} late is too late for catch-up")

    # Runs.

    async def _want(self, why: Why, due: float) -> None:
        """A run is to begin: now, or when another has ended, or not at all."""
        memory = self._memory
        run = Run(key="", why=why, due=due)
        if self._run is None:
            await self._begin(run)
        elif self._timer.overlap == "skip" or memory.waiting is not None:
            other = "one waits already" if memory.waiting is not None else "the one before was still under way"
            await self._leave_out(why, due, f"left out: {other}")
        else:
            memory.waiting = run
            await self._remember()
            if self._timer.overlap == "stop-old":
                self._stop_old()

    def _stop_old(self) -> None:
        self._stopped_because = "it was stopped because the next run was due"
        self._scope.cancel()

    async def _leave_out(self, why: Why, due: float, reason: str) -> None:
        run = Run(key="", why=why, due=due, ended=time.time(), reason=reason)
        self._context.log("timer-run-left-out", due=words.moment(due), reason=reason)
        await self._close(run)

    async def _begin(self, run: Run) -> None:
        memory = self._memory
        memory.count += 1
        run.key = str(memory.count)
        run.began, run.began_uptime = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        memory.current, memory.waiting = run, None
        self._take_up(run)
        await self._tell()
        await self._write_record()
        await self._remember()
        self._context.log("timer-run-begins", why=run.why, due=words.moment(run.due))
        self._spawn(run)

    def _take_up(self, run: Run) -> None:
        """Let a run be the one that is under way, and can be stopped."""
        self._run = run
        self._stopped_because = None
        self._scope = trio.CancelScope()
        if self._idle.is_set():
            self._idle = trio.Event()

    def _spawn(self, run: Run) -> None:
        """Let a run that is remembered take its course."""
        self._limit = self._timer.max_duration
        if self._limit is not None:
            taken = time.clock_gettime(time.CLOCK_BOOTTIME) - run.began_uptime
            self._scope.deadline = trio.current_time() + self._limit - taken
        self._nursery.start_soon(self._carry_out, run)

    async def _carry_out(self, run: Run) -> None:
        """See a run through, one that was begun by a predecessor too, and let the next one begin that waits."""
        timer, context = self._timer, self._context
        failure = End(reason="it was stopped", was_stopped=True)
        with self._scope:
            try:
                if run.key in context.left:
                    await context.resume(run.key, on_end=partial(self._ended, run))
                else:
                    for step in timer.prepare:
                        await step.run(context)
                    await context.execute(timer.process, key=run.key, on_end=partial(self._ended, run))
            except StartFailure as caught:
                failure = End(reason=str(caught))
        if run.ended is None:  # it never had a process, or has one that not even SIGKILL ends
            await self._ended(run, failure)
        await self._clear_away(timer)
        waiting = self._memory.waiting
        if waiting is None:
            self._run = None
            self._idle.set()
        else:
            await self._begin(waiting)

    async def _ended(self, run: Run, end: End) -> None:
        """A run is over; its process, if it had one, is still the keeper's."""
        run.ended = time.time()
        run.seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - run.began_uptime
        run.reason, run.code = end.reason, end.code
        if end.was_stopped and self._stopped_because is not None:
            run.reason = f"{self._stopped_because} ({end.reason})"
        elif end.was_stopped and self._limit is not None and trio.current_time() >= self._scope.deadline:
            run.reason = f"it was stopped after {in_words(self._limit)}, its max-duration ({end.reason})"
        self._memory.current = None
        self._context.log("timer-run-ended", reason=run.reason, code=end.code, seconds=round(run.seconds, 3))
        await self._close(run)

    async def _close(self, run: Run) -> None:
        self._memory.past = [run, *self._memory.past][:RUNS_KEPT]
        await self._tell()
        await self._write_record()
        await self._remember()

    async def _clear_away(self, timer: RunOnSchedule) -> None:
        with trio.move_on_after(CLEARING_PATIENCE):
            for step in timer.aftermath:
                try:
                    await step.run(self._context)
                except (StartFailure, OSError) as error:
                    self._context.log("aftermath-failed", step=type(step).__name__, reason=error)

    # What is told.

    async def _answer(self) -> None:
        while True:
            request = await self._context.request()
            match request.arguments:
                case ("trigger",):
                    await self._trigger(request)
                case ("runs",):
                    request.answer("\n".join(words.table(self._memory, self._upcoming(), time.time())))
                case ("runs", "--json"):
                    request.answer(words.as_json(self._memory, self._upcoming()))
                case _:
                    request.refuse(f"a timer knows nothing of {' '.join(request.arguments)!r}")

    async def _trigger(self, request: Request) -> None:
        current = self._run
        if current is not None and (self._timer.overlap == "skip" or self._memory.waiting is not None):
            also = ", and one waits for its end" if self._memory.waiting is not None else ""
            request.refuse(f"a run is under way since {words.moment(current.began or current.due)}{also}")
            return
        await self._want("triggered", time.time())
        name = self._context.name
        match current, self._timer.overlap:
            case None, _:
                request.answer(f"A run of {name} has begun.")
            case _, "queue":
                request.answer(f"A run of {name} begins when the one under way has ended.")
            case _:
                request.answer(f"A run of {name} begins as soon as the one under way is stopped.")

    def _upcoming(self) -> list[float]:
        """When the next runs begin, in seconds since the epoch."""
        moments: list[float] = []
        timing, now = self._timing, self._timing.alarm.now()
        due = timing.latest(self._memory.last, now)  # it may have been due, and wait for the end of its delay
        if due is None or timing.delayed(due) <= now:
            due = timing.next(max(now, self._memory.last))
        while due is not None and len(moments) < UPCOMING:
            moments.append(timing.wall(timing.delayed(due)))
            due = timing.next(due)
        return moments

    async def _tell(self) -> None:
        """Have the status show the last run, the one under way and the next."""
        memory, now = self._memory, time.time()
        current, last = memory.current, memory.past[0] if memory.past else None
        told = None if last is None else f"{words.moment(last.began or last.due)}, {words.outcome(last)}"
        self._context.detail("last run", told)
        self._context.detail("running since", None if current is None else words.moment(current.began or now))
        due = self._due
        self._context.detail("next run", None if due is None else words.moment(self._timing.wall(due)))

    async def _remember(self) -> None:
        await self._context.remember(msgspec.json.encode(self._memory).decode())

    async def _write_record(self) -> None:
        """Bring the record up to date. Waits for the disk, but not for long."""
        path, memory = self._timer.record, self._memory
        if path is None:
            return
        record = Record(last=self._timing.wall(memory.last), past=list(memory.past))
        try:
            with trio.fail_after(DISK_PATIENCE):
                await in_thread(write_record, path, record, abandon_on_cancel=True, limiter=self._pen)
        except OSError as error:
            self._context.log("timer-record-not-written", record=path, reason=error)
        except trio.TooSlowError:
            self._context.log("timer-record-not-written", record=path, reason=f"not done after {DISK_PATIENCE:g} s")
