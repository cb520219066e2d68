"""The herdpy command, as a person runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from herdpy.command import UsageError, parse, paths_of

ROOT = Path(__file__).parent.parent
HERDPY = (sys.executable, "-c", "import sys; from herdpy.command import main; sys.exit(main(sys.argv[1:]))")


def herdpy(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HERDPY, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def layer(tmp_path: Path, **declarations: str) -> Path:
    directory = tmp_path / "services"
    directory.mkdir(mode=0o755)
    for name, text in declarations.items():
        (directory / f"{name}.toml").write_text(text)
        (directory / f"{name}.toml").chmod(0o644)
    return directory


def test_options_in_all_their_spellings() -> None:
    said = parse(["--services", "a", "--services=b", "-s", "c", "--state-dir=d", "--log", "e", "--pid", "check"])
    assert said.services == ["a", "b"]
    assert (said.socket, said.state_dir, said.log_dir, said.pid_file) == ("c", "d", "e", "-")
    assert said.operands == ["check"]
    assert parse(["-sc"]).socket == parse(["--socket=c"]).socket == parse(["--so", "c"]).socket == "c"
    assert parse(["--pid=p"]).pid_file == "p"
    assert parse([]).pid_file is None
    assert parse(["--", "--help"]).operands == ["--help"]
    assert parse(["--help"]).help
    assert parse(["--version"]).version


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--bogus"], "unknown option: --bogus"),
        (["--=x"], "unknown option: --"),
        (["-x"], "unknown option: -x"),
        (["--s", "x"], "ambiguous option: --s (--services, --socket, --state-dir)"),
        (["--services"], "--services needs a value"),
        (["--socket="], "--socket needs a value"),
        (["-s"], "--socket needs a value"),
        (["--pid="], "--pid= needs the name of a file after the equals sign"),
        (["--help=yes"], "--help takes no value"),
    ],
)
def test_wrong_options(arguments: list[str], problem: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(arguments)
    assert str(error.value) == problem


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--bogus"], "unknown option: --bogus"),
        (["start"], "unknown command: start; there are check and schema TYPE"),
        (["check", "x"], "unknown command: check x; there are check and schema TYPE"),
        (["check", "--services=no/where"], "--services: no such directory: no/where"),
        (["check", "--services=pyproject.toml"], "--services: not a directory: pyproject.toml"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_1(arguments: list[str], problem: str) -> None:
    result = herdpy(*arguments)
    assert (result.stdout, result.stderr) == ("", f"herdpy: {problem}; try 'herdpy --help'\n")
    assert result.returncode == 1


def test_help_names_every_option() -> None:
    result = herdpy("--help")
    assert result.returncode == 0
    for option in ("--services", "--socket", "--state-dir", "--log-dir", "--pid", "--help", "--version", "check"):
        assert option in result.stdout
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 110


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["schema", "process"], ["check", "--services", "{}"]])
def test_an_output_that_is_closed_full_or_not_read_is_no_traceback(tmp_path: Path, arguments: list[str]) -> None:
    directory = layer(tmp_path, a='command = ["true"]\n')
    words = [*HERDPY, *(argument.format(directory) for argument in arguments)]
    # A FIFO that is open for reading and writing, and then for writing alone.
    script = """mkfifo "$0"; exec 3<>"$0" 4>"$0" 3<&-
        for to in 4 full closed; do
            case $to in 4) "$@" >&4 ;; full) "$@" >/dev/full ;; closed) "$@" >&- ;; esac
            echo $?
        done"""
    outputs = subprocess.run(
        ["sh", "-c", script, tmp_path / "fifo", *words], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert outputs.stdout == "141\n1\n0\n"
    assert outputs.stderr == "herdpy: cannot write to standard output: No space left on device\n"


def test_mistakes_that_nobody_can_read_are_mistakes(tmp_path: Path) -> None:
    directory = layer(tmp_path, a="oops\n")
    script = '"$0" "$@" 2>/dev/full; echo $?; "$0" "$@" 2>&-; echo $?'
    done = subprocess.run(
        ["sh", "-c", script, *HERDPY, "check", f"--services={directory}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert (done.stdout, done.stderr) == ("2\n2\n", "")


def test_version() -> None:
    result = herdpy("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("herdpy ")


def test_check_of_a_right_configuration(tmp_path: Path) -> None:
    directory = layer(tmp_path, a='command = ["sleep", "60"]\n', b='command = ["true"]\nrequirement = ["a"]\n')
    result = herdpy("check", "--services", directory)
    assert (result.returncode, result.stdout, result.stderr) == (0, "2 services, no mistakes\n", "")


def test_check_tells_every_mistake_and_ends_with_2(tmp_path: Path) -> None:
    directory = layer(
        tmp_path,
        a='command = "sleep 60"\n',
        b='command = ["true"]\nrequirement = [\n  "a",\n  "c",\n  "nope",\n]\n',
        c='command = ["true"]\nprovision = ["d"]\nrequirement = ["b"]\n',
        d='command = ["true"]\n\nauto_start = true\n',
        e='provision = ["c"]\ncommand = ["true"]\n',
        f="oops\n",
    )
    result = herdpy("check", f"--services={directory}")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.replace(f"{directory}/", "").splitlines() == [
        'a.toml:1: command: expected a list of strings, got the string "sleep 60"; write command = ["sleep", "60"]',
        "b.toml:4: requirement[1]: services that wait for one another can never start: b -> c -> b "
        "(declared in b.toml, c.toml)",
        "b.toml:5: requirement[2]: b requires nope, which nothing provides",
        "d.toml:3: auto_start: unknown key; did you mean auto-start?",
        "e.toml:1: provision[0]: e provides c, and so does c (c.toml)",
        "f.toml:1: not TOML: expected '=' after a key in a key/value pair (column 5)",
    ]


def test_check_names_the_line_of_a_socket_that_two_claim(tmp_path: Path) -> None:
    text = 'command = ["cat"]\n\nsockets = [\n  "127.0.0.1:7990",\n  "unix:/run/x",\n]\n'
    directory = layer(tmp_path, a=text, b=text.replace('"127.0.0.1:7990"', '{ address = "127.0.0.1:7990" }'))
    result = herdpy("check", f"--services={directory}")
    assert result.returncode == 2
    assert result.stderr.replace(f"{directory}/", "").splitlines() == [
        "b.toml:4: sockets[0].address: b claims host port 7990 (tcp), and so does a (a.toml); change one of the two",
        "b.toml:5: sockets[1]: b claims the socket unix:/run/x, and so does a (a.toml); change one of the two",
    ]


def test_check_refuses_a_patience_that_is_none(tmp_path: Path) -> None:
    text = 'type = "host"\nstate = "networking"\npatience = '
    result = herdpy("check", "--services", layer(tmp_path, a=f"{text}-1\n", b=f"{text}nan\n", c=f"{text}0\n"))
    assert result.returncode == 2
    assert [line.partition(": ")[2].partition(":")[0] for line in result.stderr.splitlines()] == ["patience"] * 2


def test_later_services_directories_override_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first = layer(tmp_path / "1", a='command = ["true"]\n')
    second = layer(tmp_path / "2", a="grace-period = 0\n")
    result = herdpy("check", "--services", first, "--services", second)
    assert result.returncode == 2
    assert result.stderr.startswith(f"{second}/a.toml:1: grace-period: ")
    assert herdpy("check", "--services", second, "--services", first).returncode == 2
    assert herdpy("check", "--services", first).returncode == 0


def test_check_loads_no_event_loop_and_the_daemons_way_loads_no_struct(tmp_path: Path) -> None:
    directory = layer(tmp_path, a='command = ["true"]\n')
    script = """if True:
        import sys
        from herdpy.command import main, parse, paths_of
        paths_of(parse(["--services", sys.argv[1], "--pid"]))
        print(*sorted(sys.modules))
        main(["check", "--services", sys.argv[1]])
        print(*sorted(sys.modules))
    """
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path += {sys.path!r}\n{script}", directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    boot, _, check = (set(line.split()) for line in result.stdout.splitlines())
    assert not boot & {"msgspec", "re", "typing", "argparse", "subprocess", "dataclasses", "trio", "tomllib", "logging"}
    assert not check & {"trio", "argparse", "subprocess", "structlog", "psutil"}


def test_paths_on_the_command_line_are_relative_to_where_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer(tmp_path)
    monkeypatch.chdir(tmp_path)
    paths = paths_of(parse(["--services=services", "-s", "socket", "--state-dir=state", "--log-dir=log"]))
    assert paths.layers == (str(tmp_path / "services"),)
    assert paths.trusted == ()
    assert (paths.socket, paths.state, paths.log) == tuple(str(tmp_path / name) for name in ("socket", "state", "log"))


def test_what_keeps_herdpy_from_beginning_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = herdpy(
        *("--services", layer(tmp_path), "--socket", tmp_path / "socket"),
        *("--state-dir", tmp_path / "file" / "state", "--log-dir", tmp_path / "log"),
    )
    assert result.returncode == 1
    assert result.stderr.startswith("herdpy: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "file") in result.stderr


def test_check_warns_of_what_does_not_do_what_one_may_think_and_succeeds(tmp_path: Path) -> None:
    virtlogd, libvirtd = 'type = "virtlog"\n', 'type = "libvirt"\n\nmax-requests = 7\ntls-port = "16555"\n'
    services = layer(tmp_path, virtlogd=virtlogd, libvirtd=libvirtd)
    completed = herdpy("check", f"--services={services}")
    assert completed.returncode == 0
    assert completed.stdout == "2 services, no mistakes\n"
    assert completed.stderr == (
        f"warning: {services}/libvirtd.toml:3: max-requests: today's libvirt ignores it\n"
        f"warning: {services}/libvirtd.toml:4: tls-port: has no effect without listen = true\n"
    )


def test_what_is_shipped_is_not_warned_of() -> None:
    """The tutorial's sixth section counts on it: its own declaration, and what was shipped."""
    completed = herdpy("check")
    assert "warning: " + str(ROOT / "services") not in completed.stderr
    shipped = len(list((ROOT / "services").glob("*.toml")))
    assert f"{shipped + 1} services, no mistakes" in (ROOT / "docs" / "tutorial.md").read_text()


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md", "docs/how-to.md"])
def test_machines_of_the_documents_can_be_declared_beside_one_another(tmp_path: Path, document: str) -> None:
    """Those of one document, and the several childhurds of the how-to, beside what is shipped."""
    text = (ROOT / document).read_text()
    forwardings = re.findall(r"^    port-forwardings = .*$", text, re.MULTILINE)
    assert forwardings
    machines = {
        f"vm{number}": f'type = "virtual-build-machine"\nsecrets = "none"\n{line.strip()}\n'
        for number, line in enumerate(forwardings)
    }
    (several,) = re.findall(
        r"^    (instances = .*)\n    (id = .*)$", (ROOT / "docs/how-to.md").read_text(), re.MULTILINE
    )
    own = layer(tmp_path, **machines, **{"hurd-vm": "\n".join(several)})
    completed = herdpy("check", f"--services={ROOT / 'services'}", f"--services={own}")
    assert completed.returncode == 0, completed.stderr
