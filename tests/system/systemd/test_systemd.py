"""herdpy as a service of a real systemd."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from herdpy.version import VERSION
from tests.conftest import BIN, wait_until

from .conftest import UNITS, Jail

SLEEPER = 'command = ["sleep", "1000"]\nauto-start = true\n'


@pytest.fixture
def booted(jail: Jail) -> Jail:
    """herdpy was started at boot, with two services, of which one requires the other."""
    (jail.services / "base.toml").write_text(SLEEPER)
    (jail.services / "web.toml").write_text(f'{SLEEPER}requirement = ["base"]\n')
    jail.enable("herdpy.service")
    jail.boot()
    wait_until(lambda: jail.show("StatusText") == f"2 of {len(names(jail))} services run")
    return jail


def names(jail: Jail, *, user: bool = False) -> list[str]:
    status = json.loads(jail.ok("herd", "--json", "status", user=user))
    return [service["provides"][0] for service in status if service["provides"][0] != "root"]


def stopped_in_order(jail: Jail) -> bool:
    """Whether the events tell of it: what requires another first."""
    log = jail.ok("cat", "/var/log/herdpy/herdpy.log")
    found = [log.rfind(f"service={name}", 0, log.rfind("exiting")) for name in ("web", "base")]
    return 0 < found[0] < found[1]


def test_it_is_active_when_it_answers_and_each_service_has_a_cgroup_below_it(booted: Jail) -> None:
    assert booted.show("ActiveState") == "active"
    assert booted.show("SubState") == "running"
    assert int(booted.show("MainPID")) == booted.programs()["keeper"]
    own = booted.show("ControlGroup")
    for pid in booted.pids("base", "web"):
        assert f"0::{own}/herdpy-" in booted.ok("cat", f"/proc/{pid}/cgroup")


def test_it_is_enabled_by_its_path_as_the_how_to_says(jail: Jail) -> None:
    for unit in jail.units.glob("herdpy.*"):
        unit.unlink()
    (jail.services / "base.toml").write_text(SLEEPER)
    jail.boot()
    jail.ok("systemctl", "enable", "--now", str(UNITS / "herdpy.service"))
    assert jail.show("ActiveState") == "active"
    assert jail.show("UnitFileState") == "enabled"
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))


def test_a_reload_touches_nothing_that_did_not_change(booted: Jail) -> None:
    before, programs = booted.pids("base", "web"), booted.programs()
    (booted.services / "third.toml").write_text(SLEEPER)
    booted.ok("systemctl", "reload", "herdpy")
    assert booted.pids("base", "web") == before
    after = booted.programs()
    assert after["keeper"] == programs["keeper"]
    assert after["supervisor"] != programs["supervisor"], "it is not of the code that is installed by now"
    assert booted.show("ActiveState") == "active"
    wait_until(lambda: json.loads(booted.ok("herd", "--json", "status", "third"))["status"] == "running")


def test_an_upgrade_of_the_package_takes_effect_with_a_reload_and_touches_no_service(jail: Jail) -> None:
    package = jail.install()
    (jail.services / "base.toml").write_text(SLEEPER)
    jail.enable("herdpy.service")
    jail.boot()
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))
    before, programs = jail.pids("base"), jail.programs()
    version = package / "version.py"
    version.write_text(version.read_text().replace(VERSION, "0.9.9"))
    jail.ok("systemctl", "reload", "herdpy")
    jail.ok("herd", "upgrade", "root", "keeper")
    log = jail.ok("cat", "/var/log/herdpy/herdpy.log")
    for what in ("upgraded", "keeper-upgraded"):
        assert f" {what} before={VERSION} now=0.9.9 " in log
    assert jail.pids("base") == before
    assert jail.programs()["keeper"] == programs["keeper"]
    assert jail.show("NRestarts") == "0"
    # One that cannot be used changes nothing.
    version.write_text("what is this?\n")
    assert jail.run("systemctl", "reload", "herdpy").returncode == 1
    assert jail.pids("base") == before
    assert jail.show("ActiveState") == "active"


def test_a_supervisor_that_crashes_again_and_again_is_told_in_the_status_and_touches_no_service(jail: Jail) -> None:
    package = jail.install()
    (jail.services / "base.toml").write_text(SLEEPER)
    jail.change("herdpy.service", "[Service]\nWatchdogSec=8\n")
    jail.enable("herdpy.service")
    jail.boot()
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))
    before, programs = jail.pids("base"), jail.programs()
    module = package / "supervisor" / "registry.py"
    sound = module.read_text()
    module.write_text("what is this?\n")
    jail.kill(programs["supervisor"])
    wait_until(lambda: "crashed 5 times in a row" in jail.show("StatusText"))
    # What answers in its place has nothing to say to systemd: the keeper does.
    since = jail.show("WatchdogTimestampMonotonic")
    wait_until(lambda: int(jail.show("WatchdogTimestampMonotonic")) > int(since) + 3e6)
    module.write_text(sound)
    jail.ok("systemctl", "reload", "herdpy")
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))
    assert jail.pids("base") == before
    assert jail.programs()["keeper"] == programs["keeper"]
    assert jail.show("NRestarts") == "0"


def test_a_reload_with_mistakes_fails_and_changes_nothing(booted: Jail) -> None:
    before, programs = booted.pids("base", "web"), booted.programs()
    (booted.services / "third.toml").write_text("command = 1\n")
    assert booted.run("systemctl", "reload", "herdpy").returncode == 1
    assert booted.pids("base", "web") == before
    assert booted.programs() == programs
    assert booted.show("ActiveState") == "active"


def test_a_keeper_that_executes_itself_anew_is_the_main_process_still(jail: Jail) -> None:
    (jail.services / "base.toml").write_text(SLEEPER)
    jail.change("herdpy.service", "[Service]\nWatchdogSec=8\n")
    jail.enable("herdpy.service")
    jail.boot()
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))
    before, programs = jail.pids("base"), jail.programs()
    jail.ok("herd", "upgrade", "root", "keeper")
    assert jail.programs()["keeper"] == programs["keeper"]
    since = jail.show("WatchdogTimestampMonotonic")
    wait_until(lambda: int(jail.show("WatchdogTimestampMonotonic")) > int(since) + 3e6)
    assert jail.show("NRestarts") == "0"
    assert jail.pids("base") == before
    environment = jail.ok("cat", f"/proc/{jail.programs()['supervisor']}/environ")
    assert "NOTIFY_SOCKET" not in environment
    assert "WATCHDOG_USEC" not in environment


def test_a_stop_stops_in_order_and_a_restart_starts_again(booted: Jail) -> None:
    before = booted.pids("base", "web")
    booted.ok("systemctl", "restart", "herdpy")
    assert stopped_in_order(booted), booted.said()
    wait_until(lambda: booted.show("StatusText").startswith("2 of "))
    assert not set(before) & set(booted.pids("base", "web"))
    booted.ok("systemctl", "stop", "herdpy")
    assert booted.show("ActiveState") == "inactive"
    assert booted.show("Result") == "success"
    assert booted.run("pgrep", "-x", "sleep").stdout == ""
    assert booted.run("test", "-e", "/run/herdpy/socket").returncode == 1


def test_it_asks_for_the_time_that_its_services_take_to_stop(jail: Jail) -> None:
    slow = "trap 'sleep 4; exit' TERM; sleep 1000 & wait"
    (jail.services / "slow.toml").write_text(f'command = ["sh", "-c", "{slow}"]\nauto-start = true\n')
    jail.change("herdpy.service", "[Service]\nTimeoutStopSec=2\n")
    jail.enable("herdpy.service")
    jail.boot()
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))
    jail.ok("systemctl", "stop", "herdpy")
    assert jail.show("Result") == "success"
    assert jail.run("pgrep", "-x", "sleep").stdout == ""


def test_what_stops_by_herd_is_not_started_again(booted: Jail) -> None:
    booted.ok("herd", "stop", "root")
    wait_until(lambda: booted.show("ActiveState") == "inactive")
    assert booted.show("NRestarts") == "0"


def test_killed_whole_it_is_started_again_and_takes_everything_up(booted: Jail) -> None:
    before, programs = booted.pids("base", "web"), booted.programs()
    booted.kill(*programs.values())
    wait_until(lambda: booted.show("MainPID") not in ("0", str(programs["keeper"])))
    wait_until(lambda: booted.show("ActiveState") == "active")
    assert booted.pids("base", "web") == before
    assert not set(programs.values()) & set(booted.programs().values())
    booted.ok("systemctl", "stop", "herdpy")
    assert booted.run("pgrep", "-x", "sleep").stdout == ""


def test_a_supervisor_that_became_the_keeper_is_the_main_process(booted: Jail) -> None:
    before, programs = booted.pids("base", "web"), booted.programs()
    booted.kill(programs["keeper"])
    wait_until(lambda: booted.show("ActiveState") == "active" and booted.show("MainPID") != str(programs["keeper"]))
    # The supervisor, at once; or, had it been too slow, the one that systemd started.
    assert booted.pids("base", "web") == before
    after = booted.programs()
    assert after["supervisor"] != programs["supervisor"]
    assert booted.show("NRestarts") == "1"
    # It is the one that systemd minds from now on: when it is killed, systemd notices.
    booted.kill(*after.values())
    wait_until(lambda: booted.show("ActiveState") == "active" and booted.show("MainPID") != str(after["keeper"]))
    assert booted.pids("base", "web") == before
    booted.ok("systemctl", "stop", "herdpy")
    assert booted.run("pgrep", "-x", "sleep").stdout == ""


def test_mistakes_are_told_and_not_tried_again(jail: Jail) -> None:
    (jail.services / "bad.toml").write_text("command = 1\n")
    jail.enable("herdpy.service")
    jail.boot()
    wait_until(lambda: jail.show("ActiveState") == "failed")
    assert jail.show("ExecMainStatus") == "2"
    assert jail.show("NRestarts") == "0"
    (jail.services / "bad.toml").write_text(SLEEPER)
    jail.ok("systemctl", "start", "herdpy")
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))


def test_a_supervisor_that_hangs_is_replaced_and_a_keeper_that_hangs_killed(jail: Jail) -> None:
    (jail.services / "base.toml").write_text(SLEEPER)
    jail.change("herdpy.service", "[Service]\nWatchdogSec=10\n")
    jail.enable("herdpy.service")
    jail.boot()
    wait_until(lambda: jail.show("StatusText").startswith("1 of "))
    before, programs = jail.pids("base"), jail.programs()
    jail.kill(programs["supervisor"], number=signal.SIGSTOP)
    wait_until(lambda: jail.programs().get("supervisor") not in (None, programs["supervisor"]))
    assert jail.programs()["keeper"] == programs["keeper"]
    assert jail.show("NRestarts") == "0"
    assert "has said nothing for 5 s: killing it" in jail.ok("cat", "/var/log/herdpy/herdpy.log")
    jail.kill(programs["keeper"], number=signal.SIGSTOP)
    wait_until(lambda: jail.show("NRestarts") == "1" and jail.show("ActiveState") == "active")
    assert jail.programs()["keeper"] != programs["keeper"]
    assert jail.pids("base") == before


def test_whoever_asks_starts_it_when_systemd_has_its_socket(jail: Jail) -> None:
    (jail.services / "base.toml").write_text(SLEEPER)
    jail.enable("herdpy.socket")
    jail.boot()
    assert jail.show("ActiveState") == "inactive"
    assert jail.ok("stat", "-c", "%a %U", "/run/herdpy/socket", "/run/herdpy") == "600 root\n700 root\n"
    jail.ok("herd", "start", "base")
    assert jail.show("ActiveState") == "active"
    before, programs = jail.pids("base"), jail.programs()
    jail.kill(*programs.values())
    # Nobody is refused meanwhile.
    assert jail.pids("base") == before
    assert jail.programs()["keeper"] != programs["keeper"]
    jail.ok("systemctl", "stop", "herdpy.socket", "herdpy.service")
    assert jail.run("pgrep", "-x", "sleep").stdout == ""


def test_an_ordinary_users_systemd_runs_an_ordinary_users_herdpy(jail: Jail) -> None:
    jail.boot()
    jail.ok("systemctl", "start", "user.service")
    jail.ok(
        "sh",
        "-c",
        f"mkdir -p ~/.config/herdpy/services; echo '{SLEEPER}' >~/.config/herdpy/services/base.toml",
        user=True,
    )
    jail.ok("systemctl", "--user", "start", "herdpy.socket", user=True)
    jail.ok("herd", "start", "base", user=True)
    wait_until(lambda: jail.show("StatusText", user=True).startswith("1 of "))
    before, keeper = jail.pids("base", user=True), jail.show("MainPID", user=True)
    assert jail.show("ControlGroup", user=True) in jail.ok("cat", f"/proc/{before[0]}/cgroup")
    jail.kill(int(keeper))
    wait_until(lambda: jail.show("MainPID", user=True) not in ("0", keeper))
    wait_until(lambda: jail.show("ActiveState", user=True) == "active")
    assert jail.pids("base", user=True) == before
    jail.ok("systemctl", "--user", "stop", "herdpy.socket", "herdpy.service", user=True)
    assert jail.run("pgrep", "-x", "sleep").stdout == ""


@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_finds_nothing_wrong_with_the_units(kind: str, tmp_path: Path) -> None:
    directory = UNITS if kind == "system" else UNITS / "user"
    for unit in directory.glob("herdpy.*"):
        # The commands are in no directory of systemd's here.
        text = unit.read_text().replace("=herdpy\n", f"={BIN}/herdpy\n").replace("=herd ", f"={BIN}/herd ")
        (tmp_path / unit.name).write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--{kind}", *sorted(tmp_path.glob("herdpy.*"))],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "XDG_RUNTIME_DIR": str(tmp_path),
            "SYSTEMD_UNIT_PATH": f"{tmp_path}:/usr/lib/systemd/{kind}",
        },
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
