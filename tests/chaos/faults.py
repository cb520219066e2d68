"""The faults: each a function of a run and of a random number generator that it alone draws from."""

import contextlib
import itertools
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random

from tests.chaos.ends import UNKNOWN
from tests.chaos.fleet import AUTO, BIN, PATIENCE, Kind, Violation, eventually, signal_safely
from tests.chaos.lines import NO_END, Allowance
from tests.chaos.run import Run, pause

Fault = Callable[[Run, Random], None]

PROGRAM_SETS = {
    ("supervisor",): 6,
    ("logger",): 4,
    ("keeper",): 5,
    ("supervisor", "logger"): 2,
    ("keeper", "logger"): 2,
    ("keeper", "supervisor"): 2,
    ("keeper", "supervisor", "logger"): 3,
}
ENDABLE = ("plain", "chatty", "forking", "notify", "eager", "base", "middle", "top")
"""Services whose process a fault may end."""
RESTARTED = ("plain", "forking", "notify", "eager", "lazy", "base", "middle", "top", "often")
HANGING = 40
"""So many clients hang at most."""
ROOM = "256m"
"""Of the file systems of state and logs."""


def kill(run: Run, random: Random) -> None:
    """Kill one of herdpy's programs, or several, perhaps in the middle of something, and services with them."""
    which = random.choices([*PROGRAM_SETS], [*PROGRAM_SETS.values()])[0]
    ends = _some_ends(random)
    is_stopped_first = random.random() < 0.5
    is_before = random.random() < 0.5
    restarted = random.choice(RESTARTED) if random.random() < 0.4 else None
    delay, outage = random.random() ** 2 * 0.3, random.random() ** 2 * 3
    ends = tuple(end for end in ends if end[0] != restarted)  # which might end before it was ready: a failed start
    if "supervisor" in which:
        run.await_age()
    restarting = None if restarted is None else _restart(run, restarted)
    if is_before:
        run.end_services(ends)
    pause(delay)
    run.kill(
        which,
        is_stopped_first=is_stopped_first,
        meanwhile=lambda: None if is_before else run.end_services(ends),
        outage=outage,
    )
    if restarting is not None:
        _finish(run, restarting, f"herd restart {restarted}", killed=which)


def kill_young(run: Run, random: Random) -> None:
    """Kill the supervisor, and the next one before it is ready."""
    count = random.randint(2, 3)
    ends = _some_ends(random)
    run.await_age()
    run.end_services(ends)
    run.kill_young(count)


def cripple(run: Run, random: Random) -> None:
    """Kill supervisors until there is only the minimal one, end services under it, and have it replaced."""
    ends = _some_ends(random)
    run.await_age()
    run.kill_until_minimal()
    run.end_services(ends)
    run.is_answered()
    run.fleet.ok("upgrade", "root")
    run.fleet.await_whole()


def kill_services(run: Run, random: Random) -> None:
    """End services' processes, and nothing else."""
    run.end_services(_some_ends(random) or (("plain", True),))


def _some_programs(random: Random) -> tuple[str, ...]:
    return random.choices([*PROGRAM_SETS], [*PROGRAM_SETS.values()])[0]


def _some_ends(random: Random) -> tuple[tuple[str, bool], ...]:
    count = random.choice((0, 1, 1, 2, 4))
    return tuple((name, random.random() < 0.5) for name in random.sample(ENDABLE, count))


def restart(run: Run, random: Random) -> None:
    """Restart a service, or stop and start it."""
    name, is_restart = random.choice(RESTARTED), random.random() < 0.5
    if is_restart:
        _finish(run, _restart(run, name), f"herd restart {name}")
        return
    run.may_stop(name)
    run.fleet.ok("stop", name)
    if run.fleet.records.alive(name):
        raise Violation(f"{name} was stopped, and runs")
    for other in ("top", "middle", "base") if name in ("base", "middle") else (name,):
        run.fleet.ok("start", other)


def _restart(run: Run, name: str) -> "subprocess.Popen[str]":
    run.may_stop(name)
    return run.fleet.herd_in_background("restart", name)


def _finish(
    run: Run,
    client: "subprocess.Popen[str]",
    what: str,
    *,
    killed: Sequence[str] = (),
    may_fail: bool = False,
) -> None:
    """Wait for a client's answer.

    Args:
        killed: herdpy's programs that were killed meanwhile: a client may say that there is no herdpy for a moment, or
            that nobody knows how a one-shot has ended.
        may_fail: whether it may say, in a line or two, that it has failed.
    """
    try:
        said, _ = client.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        client.kill()
        client.communicate()
        raise Violation(f"{what} was not answered within {PATIENCE:g} s") from None
    is_lost = {"keeper", "supervisor"} <= set(killed) or may_fail
    is_lost = is_lost and said.count("\n") <= 2 and "Traceback" not in said
    if client.returncode != 0 and not is_lost and not ("keeper" in killed and UNKNOWN in said):
        raise Violation(f"{what} ended with {client.returncode}: {said}")


def fail(run: Run, random: Random) -> None:
    """Start a one-shot service that fails: who asked is told how."""
    del random
    ran = run.fleet.herd("start", "failing")
    if ran.returncode != 1 or "it exited with 7" not in ran.stdout:
        raise Violation(f"herd start failing ended with {ran.returncode}: {ran.stdout}{ran.stderr}")


def upgrade(run: Run, random: Random) -> None:
    """Let another supervisor take over, or the keeper execute itself anew; kill something meanwhile, perhaps."""
    what = random.choice(("supervisor", "keeper"))
    killed = random.choice((None, None, None, ("supervisor",), ("keeper",), ("logger",), ("keeper", "logger")))
    delay, ends = random.random(), _some_ends(random)
    if killed is not None and "supervisor" in killed:
        run.await_age()
    run.fleet.await_whole()
    client = run.fleet.herd_in_background("upgrade", "root", *(["keeper"] if what == "keeper" else []))
    if killed is None:
        run.end_services(ends)
        run.is_answered()
    else:
        pause(delay)
        run.kill(killed, is_stopped_first=False, meanwhile=lambda: run.end_services(ends), outage=0)
    _finish(run, client, f"herd upgrade root ({what})", killed=killed or (), may_fail=killed is not None)
    run.fleet.await_whole()


# Reloads.


def add(run: Run, random: Random) -> None:
    """Declare another service, at once or half of it first; kill some of herdpy meanwhile, perhaps."""
    is_half_first, delay, is_killed = random.random() < 0.4, random.random() * 0.8, random.random() < 0.4
    way = random.choice(("watched", "SIGHUP", "herd"))
    if is_killed:
        run.await_age()
    run.extra += 1
    name = f"extra-{run.extra}"
    kind = Kind(("--single",), (AUTO, "respawn-limit = 1000"), is_mortal=True)
    text = run.fleet.text(name, kind)
    run.fleet.kinds[name] = kind
    if is_half_first:
        with open(run.fleet.services / f"{name}.toml", "w", encoding="utf-8") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            pause(delay)
            file.write(text[len(text) // 2 :])
    else:
        run.fleet.declare(name, text)
    _ask_for_reload(run, way)
    if is_killed:
        pause(delay)
        run.kill(_some_programs(random), is_stopped_first=False, meanwhile=lambda: None, outage=0)


def remove(run: Run, random: Random) -> None:
    """Take away the declaration of the service that was added last."""
    way, is_killed, delay = random.choice(("watched", "SIGHUP", "herd")), random.random() < 0.4, random.random() * 0.8
    name = f"extra-{run.extra}"
    if name not in run.fleet.kinds or not run.fleet.kinds[name].runs:
        return
    if is_killed:
        run.await_age()
    run.ends.stops[name] = 2
    run.fleet.kinds[name] = run.fleet.kinds[name]._replace(runs=False)
    (run.fleet.services / f"{name}.toml").unlink()
    _ask_for_reload(run, way)
    if is_killed:
        pause(delay)
        run.kill(_some_programs(random), is_stopped_first=False, meanwhile=lambda: None, outage=0)
    eventually(lambda: name not in run.fleet.statuses(), f"{name}, which is declared no longer, is gone")


def change(run: Run, random: Random) -> None:
    """Declare a service otherwise, many times in a row; it goes on running, and the last word counts."""
    words = f"Number {random.randrange(1 << 30)}."
    count, way = random.choice((1, 20)), random.choice(("watched", "SIGHUP", "herd"))
    name = random.choice(("steady-plain", "steady-notify", "plain"))
    kind = run.fleet.kinds[name]
    texts = [f'documentation = "{at}"' for at in range(count - 1)] + [f'documentation = "{words}"']
    for text in texts:
        run.fleet.declare(name, run.fleet.text(name, kind._replace(lines=(text, *kind.lines))))
    _ask_for_reload(run, way)
    eventually(lambda: run.fleet.statuses()[name]["documentation"] == words, f"{name} is declared otherwise")


def spoil(run: Run, random: Random) -> None:
    """Write a declaration with a mistake: it is told, and nothing happens, also if some of herdpy is killed by then."""
    text = random.choice(
        ("command = [", "command = []\n", 'comand = ["true"]\n', 'command = ["x"]\nrequirement = ["no"]\n', "\0")
    )
    way, is_killed = random.choice(("watched", "SIGHUP", "herd")), random.random() < 0.4
    if is_killed:
        run.await_age()
    mistakes = [event for event in run.ends.recent if event.name == "reload-refused"]
    path = run.fleet.services / "spoiled.toml"
    path.write_text(text)
    if way == "herd":
        ran = run.fleet.herd("reload", "root")
        if ran.returncode != 1 or "spoiled.toml" not in ran.stdout + ran.stderr:
            raise Violation(f"herd reload root, with a mistake: {ran.returncode}: {ran.stdout}{ran.stderr}")
    else:
        _ask_for_reload(run, way)
        before = len(mistakes)

        def is_told() -> bool:
            run.ends.read()
            return "spoiled.toml" in run.fleet.herd("status", "root").stdout or before < sum(
                event.name == "reload-refused" for event in run.ends.recent
            )

        eventually(is_told, "the mistake is told")
    if is_killed:
        which = _some_programs(random)
        if {"keeper", "supervisor"} <= set(which):  # one that is started by hand refuses a mistake
            which = ("supervisor",)
        run.kill(which, is_stopped_first=False, meanwhile=lambda: None, outage=0)
    run.settle()
    path.unlink()


def _ask_for_reload(run: Run, way: str) -> None:
    if way == "SIGHUP":
        keeper = run.fleet.keeper
        assert keeper is not None
        signal_safely(keeper, signal.SIGHUP)
    elif way == "herd":
        ran = run.fleet.herd("reload", "root")
        if ran.returncode not in (0, 1) or "Traceback" in ran.stderr:
            raise Violation(f"herd reload root ended with {ran.returncode}: {ran.stdout}{ran.stderr}")


# Clients.


def babble(run: Run, random: Random) -> None:
    """Say what makes no sense to the control socket."""
    for _ in range(random.randint(1, 20)):
        words = random.choice(
            (
                random.randbytes(random.choice((1, 100, 70_000))),
                b"(" * random.choice((10, 100_000)),
                b"(shepherd-command (version 0) (action status) (service root)\n",
                b'(shepherd-command (version 7) (action "x") (service 1) (arguments . 2) (directory "/"))\n',
                b"GET / HTTP/1.1\r\n\r\n",
                b'(shepherd-command (version 0) (action start) (service nobody) (arguments ()) (directory "/"))\n',
            )
        )
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.2)
            client.connect(str(run.fleet.socket))
            client.sendall(words)
            client.recv(100)
    run.is_answered()


def hang(run: Run, random: Random) -> None:
    """Connect, say nothing or half a command, and stay; or ask for much and read nothing."""
    for _ in range(random.randint(1, 10)):
        words = random.choice(
            (
                b"",
                b"(shepherd-command (version 0) (action sta",
                b'(shepherd-command (version 0) (action status) (service root) (arguments ()) (directory "/"))\n',
                b'(shepherd-command (version 0) (action events) (service root) (arguments ("--follow"))'
                b' (directory "/"))\n',
            )
        )
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        with contextlib.suppress(OSError):
            client.connect(str(run.fleet.socket))
            client.sendall(words)
        run.hanging.append(client)
    while len(run.hanging) > HANGING:
        run.hanging.pop(0).close()
    run.is_answered()


def second(run: Run, random: Random) -> None:
    """Start a second herdpy in the same state directory."""
    del random
    keeper = run.fleet.keeper
    command = [str(BIN / "herdpy"), "--services", str(run.fleet.services), "--socket", str(run.fleet.socket)]
    command += ["--state-dir", str(run.fleet.state), "--log-dir", str(run.fleet.log)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if ran.returncode != 1 or f"PID {keeper}" not in ran.stderr:
        raise Violation(f"a second herdpy ended with {ran.returncode}, and said: {ran.stderr}")


# Disks.


def fill_logs(run: Run, random: Random) -> None:
    """Let there be no room for logs for a while: lines are lost, and nothing else happens."""
    seconds, killed = random.random() * 2, random.choice((None, "logger", "supervisor"))
    if killed == "supervisor":
        run.await_age()
    before = time.monotonic()
    for name in run.fleet.kinds:
        run.lines.read(name)
    begun = {
        name: {record.label for record, is_alive in run.fleet.records.of(name) if not is_alive}
        for name in run.fleet.kinds
    }
    run.fill(run.fleet.log)
    try:
        pause(seconds)
        if killed is not None:
            run.kill((killed,), is_stopped_first=False, meanwhile=lambda: None, outage=0)
        pause(seconds)
    finally:
        run.resize(run.fleet.log, ROOM)
    run.ends.nobody_wrote(before - 1, time.monotonic())
    for name in run.fleet.kinds:
        for record, is_alive in run.fleet.records.of(name):
            if record.label not in begun[name] or not run.lines.is_complete(record):
                low = run.lines.last(record.label) + 1
                high = record.begun if is_alive else NO_END
                run.lines.allow(name, Allowance(record.label, low, high, "there was no room for logs"))


def fill_state(run: Run, random: Random) -> None:
    """Let there be no room in the state directory for a while; the journal is beside the control socket meanwhile."""
    seconds, killed = random.random() * 2, random.choice((None, "logger", "supervisor", "keeper"))
    if killed == "supervisor":
        run.await_age()
    run.fill(run.fleet.state)
    try:
        pause(seconds)
        if killed is not None:
            run.kill((killed,), is_stopped_first=False, meanwhile=lambda: None, outage=0)
        pause(seconds)
    finally:
        run.resize(run.fleet.state, ROOM)

    def is_whole() -> bool:
        run.ends.read()
        return run.ends.is_journal_whole

    run.settle()
    eventually(is_whole, "the journal is whole again")


FAULTS: dict[Fault, int] = {
    kill: 30,
    kill_young: 3,
    kill_services: 6,
    restart: 5,
    fail: 2,
    upgrade: 8,
    cripple: 2,
    add: 4,
    remove: 3,
    change: 3,
    spoil: 4,
    babble: 4,
    hang: 4,
    second: 2,
    fill_logs: 2,
    fill_state: 2,
}
"""Each with how often it comes."""


def schedule(seed: int) -> Iterator[tuple[Fault, Random]]:
    """The faults that a seed makes, without end: the same ones each time, each with its own random numbers."""
    for number in itertools.count(1):
        random = Random(f"{seed}:{number}")
        yield random.choices([*FAULTS], [*FAULTS.values()])[0], random
