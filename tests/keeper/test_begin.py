"""What is so before the first service, and what is left after the last."""

import os
import select
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from herdpy.keeper.message import encode
from tests.keeper.conftest import PEER, Running, nobody_runs_in
from tests.waiting import until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_directories_and_socket_have_their_modes(keeper: Running) -> None:
    keeper.begin()
    keeper.supervisor()
    is_root = os.geteuid() == 0
    assert mode(keeper.place / "state") == (0o711 if is_root else 0o700)
    assert mode(keeper.place / "log") == (0o755 if is_root else 0o700)
    assert mode(keeper.socket.parent) == 0o700
    assert mode(keeper.socket) == 0o600
    assert mode(keeper.place / "state" / "lock") == 0o644


def test_modes_do_not_depend_on_the_umask(keeper: Running) -> None:
    keeper.begin(prefix=("sh", "-c", 'umask 0; exec "$@"', "sh"))
    supervisor = keeper.supervisor()
    assert mode(keeper.socket) == 0o600
    assert mode(keeper.socket.parent) == 0o700
    assert mode(keeper.place / "state" / "lock") == 0o644
    supervisor.tell("exit", status=0)
    supervisor.end()
    keeper.wait()
    assert mode(keeper.log) == 0o640


def test_a_second_keeper_of_the_state_directory_ends_at_once_and_names_the_first(keeper: Running, place: Path) -> None:
    keeper.begin()
    keeper.supervisor()
    first, process = keeper.pid, keeper.process
    keeper.begin()
    status, _, errors = keeper.wait()
    keeper.process = process
    assert status == 1
    assert errors.count("\n") == 1
    assert f"PID {first}" in errors
    assert str(place / "state") in errors
    assert keeper.socket.exists()


def test_a_lock_file_left_behind_locks_nobody_out(keeper: Running, place: Path) -> None:
    (place / "state").mkdir()
    (place / "state" / "lock").write_text("12345678\n")
    keeper.begin()
    keeper.supervisor()
    assert (place / "state" / "lock").read_text() == f"{keeper.pid}\n"


def test_a_client_connects_while_there_is_no_supervisor(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor(greeted=False)  # it listens to nobody yet
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(keeper.socket))
        client.send(b"question")
        supervisor.hello()
        listener = supervisor.take_listener()
        with listener:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"question"


def test_a_supervisor_that_dies_refuses_no_client(keeper: Running) -> None:
    keeper.begin()
    first = keeper.supervisor()
    first.drop_listener()
    with socket.socket(socket.AF_UNIX) as client:
        first.kill()
        client.connect(str(keeper.socket))
        listener = keeper.supervisor().take_listener()
        with listener:
            listener.accept()[0].close()


def test_a_stale_socket_is_replaced(keeper: Running) -> None:
    keeper.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(keeper.socket))
    keeper.begin()
    keeper.supervisor()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(keeper.socket))


def test_a_live_socket_is_left_to_its_owner(keeper: Running) -> None:
    keeper.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(keeper.socket))
        live.listen()
        keeper.begin()
        status, _, errors = keeper.wait()
        assert (status, errors.count("\n")) == (1, 1)
        assert f"{keeper.socket}: somebody already answers there" in errors
        live.settimeout(60)
        live.accept()[0].close()
        assert keeper.socket.exists()
    assert not (keeper.place / "state" / "lock").exists()


def test_a_file_in_the_socket_s_place_is_not_removed(keeper: Running) -> None:
    keeper.socket.parent.mkdir(mode=0o700)
    keeper.socket.write_text("precious")
    keeper.begin()
    status, _, errors = keeper.wait()
    assert (status, errors.count("\n")) == (1, 1)
    assert keeper.socket.read_text() == "precious"


def test_a_socket_directory_open_to_others_is_refused(keeper: Running) -> None:
    keeper.socket.parent.mkdir()
    keeper.socket.parent.chmod(0o750)
    keeper.begin()
    status, _, errors = keeper.wait()
    assert (status, errors.count("\n")) == (1, 1)
    assert f"{keeper.socket.parent}: socket directory has insecure permissions" in errors
    assert not keeper.socket.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_socket_directory_of_someone_else_is_refused(keeper: Running) -> None:
    keeper.socket.parent.mkdir(mode=0o700)
    os.chown(keeper.socket.parent, 65534, -1)
    keeper.begin()
    status, _, errors = keeper.wait()
    assert (status, errors.count("\n")) == (1, 1)
    assert "belongs to UID 65534" in errors


def test_a_path_too_long_for_a_socket_is_told(keeper: Running, place: Path) -> None:
    keeper.place = place / ("x" * 110)
    keeper.begin()
    status, _, errors = keeper.wait()
    assert (status, errors.count("\n")) == (1, 1)
    assert "107 fit" in errors


def test_a_directory_that_cannot_be_made_is_told(keeper: Running, place: Path) -> None:
    (place / "log").write_text("")
    keeper.begin()
    status, _, errors = keeper.wait()
    assert (status, errors.count("\n")) == (1, 1)
    assert f"cannot make the directory {place / 'log'}" in errors


def test_the_pid_file_appears_at_ready_and_goes_at_the_end(keeper: Running, place: Path) -> None:
    path = place / "pid"
    keeper.begin(pid_file=str(path))
    supervisor = keeper.supervisor()
    assert not path.exists()
    supervisor.tell("ready")
    until(path.exists, "a PID file")
    assert path.read_text() == f"{keeper.pid}\n"
    supervisor.tell("exit", status=0)
    supervisor.end()
    assert keeper.wait()[0] == 0
    assert sorted(entry.name for entry in place.iterdir()) == ["log", "run", "state", "test"]
    assert list((place / "run").iterdir()) == []
    assert list((place / "state").iterdir()) == []


def test_the_pid_goes_to_stdout_when_asked(keeper: Running) -> None:
    keeper.begin(pid_file="-")
    supervisor = keeper.supervisor()
    supervisor.tell("ready")
    supervisor.tell("ready")
    supervisor.tell("exit", status=0)
    supervisor.end()
    assert keeper.wait()[1] == f"{keeper.pid}\n"


def test_the_end_tells_status_and_message(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    supervisor.tell("exit", status=7, message="no such declaration: päper")
    supervisor.end()
    status, _, errors = keeper.wait()
    assert status == 7
    assert errors.endswith("herdpy: no such declaration: päper\n")
    assert f"supervisor {supervisor.pid} is here\n" in errors
    assert f" supervisor {supervisor.pid} is here\n" in keeper.log.read_text()


def test_a_supervisor_that_hangs_after_its_exit_request_is_not_waited_for(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    supervisor.tell("exit", status=3)
    assert keeper.wait()[0] == 3


def test_what_still_runs_at_the_end_is_killed_and_told(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    pid = supervisor.spawn("stubborn", "sh", "-c", "trap '' TERM; sleep 1000")["pid"]
    supervisor.tell("exit", status=0)
    supervisor.end()
    _, _, errors = keeper.wait()
    assert "killing what still runs: stubborn\n" in errors
    assert nobody_runs_in(pid)


def test_a_program_that_is_missing_ends_the_keeper_after_five_tries(keeper: Running) -> None:
    keeper.begin(supervisor=["/nowhere/supervisor"])
    status, _, errors = keeper.wait()
    assert status == 1
    assert errors.count("cannot start the supervisor: /nowhere/supervisor: No such file or directory") == 5
    assert errors.splitlines()[-1].startswith("herdpy: the supervisor does not start")
    assert not keeper.socket.exists()


def test_a_supervisor_that_never_says_hello_ends_the_keeper_after_five_tries(keeper: Running) -> None:
    keeper.begin(supervisor=["sh", "-c", "echo cannot import; exit 1"])
    status, _, errors = keeper.wait()
    assert status == 1
    assert errors.count("cannot import") == 5
    assert errors.splitlines()[-1].startswith("herdpy: the supervisor does not start")


def test_a_supervisor_that_never_becomes_ready_ends_the_keeper_after_five_tries(keeper: Running) -> None:
    keeper.begin()
    for _ in range(5):
        keeper.supervisor().kill()
    status, _, errors = keeper.wait()
    assert status == 1
    assert errors.splitlines()[-1].startswith("herdpy: the supervisor does not start: 5 tries")
    assert not keeper.socket.exists()


def test_asked_to_end_three_times_the_keeper_kills_everything(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    pid = supervisor.spawn("service", "sleep", "1000")["pid"]
    for _ in range(3):
        os.kill(keeper.pid, signal.SIGTERM)
        if _ < 2:
            supervisor.expect("signal", signal=signal.SIGTERM)
    status, _, errors = keeper.wait()
    assert status == 1
    assert errors.splitlines()[-1].startswith("herdpy: asked to end three times")
    assert nobody_runs_in(pid)


def test_nothing_wakes_it_up_while_nothing_happens(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    for number in range(5):
        supervisor.spawn(f"s{number}", "sleep", "1000", output={"log": str(keeper.place / "log" / f"{number}.log")})
    pids = [keeper.pid, keeper.logger()]

    def switches() -> list[int]:
        return [
            int(line.split()[1])
            for pid in pids
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        ]

    def rests() -> bool:
        before = switches()
        select.select([], [], [], 1.5)
        return switches() == before

    until(keeper.log.exists, "the first line")
    # Not at once: what the beginning left to do, such as the look for orphans and the drains.
    until(rests, "a while without a wake-up", patience=15)


def test_asked_to_end_when_no_supervisor_works_the_keeper_ends_everything(keeper: Running) -> None:
    """Such as after an upgrade that went wrong: nobody has to ask three times."""
    python = keeper.place / "python"
    python.symlink_to(Path(sys.executable).resolve())
    keeper.begin(python=str(python), supervisor=[str(python), str(PEER)])
    supervisor = keeper.supervisor()
    supervisor.line.send(encode({"kind": "ready"}))
    log = {"log": str(keeper.place / "log" / "a.log")}
    gentle = "trap 'echo ended; exit' TERM; while :; do sleep 0.05; done"
    pids = [
        supervisor.spawn("gentle", "sh", "-c", gentle, output=log)["pid"],
        supervisor.spawn("alone", "sleep", "1000", scope="process")["pid"],
    ]
    python.unlink()
    supervisor.kill()
    os.kill(keeper.pid, signal.SIGTERM)
    status, _, errors = keeper.wait()
    assert status == 1
    assert errors.splitlines()[-1] == "herdpy: asked to end, and no supervisor works, see above: ended every service"
    assert (keeper.place / "log" / "a.log").read_text().endswith(" ended\n")
    assert all(map(nobody_runs_in, pids))
    assert not keeper.socket.exists()
