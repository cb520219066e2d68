"""What <Tab> offers, asked of bash's completion function; other shells read their file, where there are any."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from herdpy.client.help_text import HELP

from .conftest import ENVIRONMENT, ROOT, Server, reply
from .test_herd import ALL, service

OF_THE_SERVICE = {"prune", "trigger", "runs"}
"""Actions that are asked for: whoever has them tells them to the shell."""
SCRIPT = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$(complete -p herd | sed 's/.*-F \\([^ ]*\\).*/\\1/')" "$1" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


async def offered(server: Server, *words: str, cwd: Path = ROOT) -> set[str]:
    """What bash offers when the cursor stands after the last word."""
    with trio.fail_after(60):
        done = await trio.run_process(
            ["bash", "-c", SCRIPT, "bash", str(ROOT / "completion/herd.bash"), str(ROOT / "bin/herd"), *words],
            capture_stdout=True,
            capture_stderr=True,
            env={**ENVIRONMENT, "HERDPY_SOCKET": server.path},
            cwd=cwd,
        )
    assert done.stderr == b""
    return set(done.stdout.decode().splitlines()) - {""}


@pytest.fixture
def answering(server: Server) -> Server:
    ours = " (actions (configuration usage prune))"
    server.answers["status root"] = reply(f"(({service('vm', ours=ours)} {ALL[2:-2]}))")
    server.answers["doc vm"] = reply('("#<unspecified>")', "#f", "vm (configuration usage prune)")
    return server


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("st", {"start", "stop", "status"}),
        ("pr", {"prune"}),
        ("c", {"configuration", "console"}),
        ("start b", {"bar", "baz"}),
        ("--json -n 5 start b", {"bar", "baz"}),
        ("--so", {"--socket="}),
        ("--since = ", {"10m", "1h", "2h", "1d"}),
        ("log bar --f", {"--follow"}),
        ("stop bar --f", {"--force"}),
        ("stop bar ", set()),
        ("plan --j", {"--json"}),
        ("load ", {"root"}),
        ("load root pyproject.t", {"pyproject.toml"}),
        ("unload root ba", {"bar", "baz"}),
        ("unload root al", {"all"}),
        ("doc vm ", {"list-actions", "action"}),
        ("doc vm action ", {"configuration", "usage", "prune"}),
        ("offload vm -", {"-C", "--fetch", "--"}),
        ("sp", {"spawn"}),
        ("spawn ", {"transient"}),
        ("schedule ", {"timer"}),
        ("schedule timer ", {"at", "in"}),
        ("schedule timer at 07:00 --us", {"--user="}),
        ("spawn transient -d . --na", {"--name="}),
        ("spawn transient -- pyproject.t", {"pyproject.toml"}),
        ("exec vm -- pyproject.t", {"pyproject.toml"}),
    ],
)
async def test_what_is_offered(answering: Server, words: str, expected: set[str]) -> None:
    assert await offered(answering, *words.split(" ")) == expected


async def test_the_socket_on_the_line_is_the_one_that_is_asked(answering: Server) -> None:
    path, answering.path = answering.path, "/nonexistent"
    for option in (["-s", path], ["--socket", "=", path], ["--socket", path], [f"-s{path}"]):
        assert await offered(answering, *option, "stop", "sl") == {"slow"}, option
    assert await offered(answering, "stop", "sl") == set()


async def test_a_server_that_does_not_answer_is_left_alone(server: Server) -> None:
    async def be_silent(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    server.answers["status"] = be_silent
    with trio.fail_after(60):
        assert await offered(server, "stop", "") == set()


async def test_a_name_is_never_run(server: Server, tmp_path: Path) -> None:
    server.answers["status"] = reply(f"(({service('#{$(touch${IFS}made)}#')} {service('#{*}#')}))")
    assert await offered(server, "stop", "", cwd=tmp_path) == {r"\$\(touch\$\{IFS\}made\)", r"\*"}
    assert [path.name for path in tmp_path.iterdir()] == ["socket"]


async def test_paths_with_blanks_are_offered_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert await offered(server, "offload", "vm", "-C", "", cwd=tmp_path) == {"a b"}


def test_every_action_that_the_help_names_is_known_to_each_shell() -> None:
    named = re.findall(r"^ {0,2}([a-z][a-z-]*(?:, [a-z-]+)*) ", HELP, re.MULTILINE)
    actions = {action for line in named for action in line.split(", ")} - OF_THE_SERVICE
    assert {"start", "detailed-status", "unload", "schedule", "doctor"} <= actions
    for file in ("herd.bash", "_herd", "herd.fish"):
        words = set(re.findall(r"[a-z-]+", (ROOT / "completion" / file).read_text()))
        assert actions <= words, f"{file} lacks {actions - words}"


@pytest.mark.parametrize("shell", [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)])
def test_the_shell_reads_its_file(shell: str) -> None:
    file = {"bash": "herd.bash", "zsh": "_herd", "fish": "herd.fish"}[shell]
    done = subprocess.run([shell, "-n", str(ROOT / "completion" / file)], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
