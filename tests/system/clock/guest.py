"""PID 1 of a guest: sets the clock under a herdpy with timers, and tells what its timers did.

What it prints to the console are lines of JSON; tests/system/clock/test_clock.py reads them.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

VENV = "/venv"
DIRECTORY = "/tmp/herdpy"
RAN = f"{DIRECTORY}/ran"
NOTED = f"import time; print(NAME, time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), file=open('{RAN}', 'a'))"
"""Each run writes its timer's name, the wall clock's time and the boot clock's."""
TIMERS = {
    "daily": 'cron = "0 7 * * *"\ntime-zone = "Europe/Lisbon"',
    "night": 'cron = "30 1 * * *"\ntime-zone = "Europe/Lisbon"',
    "often": 'every = "4s"',
}
STEADY = """
command = ["/venv/bin/python3", "-IS", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1e4)"]
respawn-delay = 3.0
respawn-limit = 100
grace-period = 2.0
"""
BEGIN = "2026-03-27 06:00:00"
"""In winter Lisbon's time is UTC; on 29 March 2026 its clocks go from 1:00 to 2:00."""


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


def set_clock(text: str) -> None:
    time.clock_settime(time.CLOCK_REALTIME, datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ran(name: str) -> list[tuple[float, float]]:
    """(wall clock, boot clock) of each run."""
    try:
        with open(RAN, encoding="ascii") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    return [(float(line.split()[1]), float(line.split()[2])) for line in lines if line.split()[0] == name]


def wait(condition: Callable[[], object], patience: float) -> bool:
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def herd(*arguments: str) -> str:
    return subprocess.run(
        [f"{VENV}/bin/python3", "-IS", f"{VENV}/bin/herd", "-s", f"{DIRECTORY}/run/socket", *arguments],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def last_why(name: str) -> object:
    past = json.loads(herd("--json", "runs", name))["past"]
    return past[-1]["why"] if past else None


def elapsed(act: Callable[[], object]) -> float:
    """Seconds that it takes, by a clock that nobody sets."""
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def steady() -> dict[str, object]:
    """Its status; it may take a while until the next supervisor answers."""
    answers: list[str] = []
    # What is no status tells, in JSON too, why there is none.
    wait(lambda: answers.append(herd("--json", "status", "steady")) or '"pid"' in answers[-1], 120)
    status: dict[str, object] = json.loads(answers[-1])
    return status


def supervisors() -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if b"herdpy.supervisor" in file.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


def years(to: str) -> None:
    """Set the clock while a respawn is waited for, and again while a stop is: neither is sooner or later for that."""
    herd("start", "steady")
    before = steady()["pid"]
    now = time.time()

    def respawn() -> None:
        os.kill(int(str(before)), signal.SIGKILL)
        wait(lambda: steady()["status"] == "starting", 60)
        set_clock(to)
        for pid in supervisors():
            os.kill(pid, signal.SIGKILL)
        wait(lambda: steady()["pid"] not in (None, before), 300)

    took = elapsed(respawn)
    stop_took = elapsed(lambda: herd("stop", "steady"))
    ticks = len(ran("often"))
    came = wait(lambda: len(ran("often")) > ticks + 1, 60)
    with open(f"{DIRECTORY}/log/herdpy.log", encoding="ascii") as file:
        last = file.read().splitlines()[-1]
    answer = herd("status", "steady")
    time.clock_settime(time.CLOCK_REALTIME, now)
    tell(
        step=f"to {to}",
        respawn=took,
        stop=stop_took,
        came=came,
        last=last,
        status=steady()["status"],
        words=answer,
        back=herd("status", "steady"),
    )


def prepare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")):
        if libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None):
            tell(failed=f"mount {place}: {os.strerror(ctypes.get_errno())}")
    os.environ.update(PATH=f"{VENV}/bin", HOME="/", LC_ALL="C.UTF-8")
    os.makedirs(f"{DIRECTORY}/services")
    for name, schedule in TIMERS.items():
        command = json.dumps([f"{VENV}/bin/python3", "-IS", "-c", NOTED.replace("NAME", repr(name))])
        with open(f"{DIRECTORY}/services/{name}.toml", "w", encoding="ascii") as file:
            file.write(f'type = "timer"\ncommand = {command}\n{schedule}\nauto-start = true\n')
    with open(f"{DIRECTORY}/services/steady.toml", "w", encoding="ascii") as file:
        file.write(STEADY)


def start() -> None:
    subprocess.Popen(
        [
            *(f"{VENV}/bin/python3", "-I", f"{VENV}/bin/herdpy"),
            *("--services", f"{DIRECTORY}/services", "--socket", f"{DIRECTORY}/run/socket"),
            *("--state-dir", f"{DIRECTORY}/state", "--log-dir", f"{DIRECTORY}/log"),
        ]
    )
    wait(lambda: "often" in herd("status"), 60)
    for name in TIMERS:  # they start by themselves, but we set the clock when they run
        herd("start", name)


def main() -> None:
    prepare()
    set_clock(BEGIN)
    start()
    tell(step="started", status=herd("status"))

    set_clock("2026-03-27 08:00:00")
    came = wait(lambda: ran("daily"), 240)
    tell(step="set forward over 7:00", came=came, at=[shown(wall) for wall, _ in ran("daily")], why=last_why("daily"))

    set_clock("2026-03-27 06:59:58")
    came = wait(lambda: len(ran("daily")) > 1, 5)
    tell(step="set back by an hour, before 7:00", came=came)

    set_clock("2026-03-26 06:59:58")
    came = wait(lambda: len(ran("daily")) > 1, 240)
    tell(step="set back by a day, before 7:00", came=came, at=shown(ran("daily")[-1][0]), why=last_why("daily"))

    set_clock("2026-03-29 00:59:40")  # from the 26th: of the nights that are over, the last one's run is made up for
    came = wait(lambda: ran("night"), 240)
    tell(step="set forward by days", came=came, count=len(ran("night")), why=last_why("night"))

    came = wait(lambda: len(ran("night")) > 1, 240)
    tell(step="1:30 is skipped", came=came, at=shown(ran("night")[-1][0]), why=last_why("night"))

    years("2096-05-01 12:00:00")
    years("1985-05-01 12:00:00")

    boots = [boot for _, boot in ran("often")]
    tell(step="the interval", seconds=[round(after - boots[0], 2) for after in boots])


try:
    main()
except BaseException as error:  # whatever it is, the test outside is to know it
    tell(failed=repr(error))
sys.stdout.flush()
os.sync()
with open("/proc/sysrq-trigger", "w", encoding="ascii") as trigger:
    trigger.write("o")
time.sleep(60)
