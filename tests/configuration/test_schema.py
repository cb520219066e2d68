"""The JSON Schema of declarations, by the eyes of taplo, which checks TOML with it."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from herdpy.catalogue import TYPES
from herdpy.configuration.schema import documentation, schema

BIN = Path(sys.executable).parent
SERVICES = Path(__file__).parents[2] / "services"


def complaints(type_name: str, text: str, directory: Path) -> str:
    """What taplo says of a declaration; empty when it finds it right."""
    if not (BIN / "taplo").exists():
        pytest.skip("no taplo: pip install '.[test]'")
    (directory / "schema.json").write_text(json.dumps(schema(TYPES[type_name])))
    (directory / "x.toml").write_text(text)
    completed = subprocess.run(
        [BIN / "taplo", "lint", "--schema", f"file://{directory}/schema.json", directory / "x.toml"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
    )
    assert (completed.returncode == 0) == ("error:" not in completed.stderr), completed.stderr
    return "" if completed.returncode == 0 else completed.stderr


@pytest.mark.parametrize("path", sorted(SERVICES.glob("*.toml")), ids=lambda path: path.stem)
def test_what_is_shipped_is_right(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    [type_name] = [line.split('"')[1] for line in text.splitlines() if line.startswith("type = ")]
    assert complaints(type_name, text, tmp_path) == ""


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("process", 'command = ["sleep", "1"]\nlog-rotation = { size = "10M", keep = 3 }\nrespawn = "on-failure"\n'),
        ("process", 'command = ["x", "%i"]\ninstances = [1, "two"]\n'),
        ("process", "mask = true\n"),
        ("qemu-binfmt", 'platforms = ["arm", "aarch64"]\n'),
        ("mount", "auto-start = true\n"),
        ("virtual-build-machine", 'type = "virtual-build-machine"\ndate = 2020-01-01\n'),
        ("virtual-build-machine", 'type = "virtual-build-machine"\ndate = 2020-01-01T12:00:00Z\n'),
    ],
)
def test_right_ones(type_name: str, text: str, tmp_path: Path) -> None:
    assert complaints(type_name, text, tmp_path) == ""


@pytest.mark.parametrize(
    ("type_name", "text", "words"),
    [
        ("qemu-binfmt", 'platforms = "arm"\n', '"arm" is not of type "array"'),
        ("qemu-binfmt", 'qmu = "/x"\n', "'qmu' was unexpected"),
        ("qemu-binfmt", 'type = "mount"\n', '"qemu-binfmt" was expected'),
        ("mount", 'type = "mount"\nfile-system = "tmpfs"\n', '"mount-point" is a required property'),
        ("virtlog", "log-level = 5\n", "5 is greater than the maximum of 4"),
        ("process", "respawn-limit = 0\n", "0 is less than the minimum of 1"),
        ("process", "log-rotation = { keeep = 3 }\n", "'keeep' was unexpected"),
        ("process", 'respawn = "sometimes"\n', "is not valid under any of the"),
        ("process", "mask = 1\n", '1 is not of type "boolean"'),
    ],
)
def test_wrong_ones(type_name: str, text: str, words: str, tmp_path: Path) -> None:
    assert words in complaints(type_name, text, tmp_path)


@pytest.mark.parametrize("name", list(TYPES))
def test_every_key_is_there_with_its_text_and_none_takes_null(name: str) -> None:
    made = schema(TYPES[name])
    struct = TYPES[name].configuration
    texts = documentation(struct)
    for field in msgspec.structs.fields(struct):
        assert made["properties"][field.encode_name].get("description") == texts.get(field.name)
    assert '"null"' not in json.dumps(made)
    assert set(made["properties"]) == {
        *("type", "mask", "instances"),
        *(field.encode_name for field in msgspec.structs.fields(struct)),
    }


def test_the_command_prints_it() -> None:
    completed = subprocess.run([BIN / "herdpy", "schema", "mount"], capture_output=True, text=True, timeout=60)
    assert completed.returncode == 0
    assert json.loads(completed.stdout) == json.loads(json.dumps(schema(TYPES["mount"])))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["mounts"], "there is no service type mounts; the types are "), ([], "schema takes one service type; the types")],
)
def test_a_type_that_there_is_not(arguments: list[str], said: str) -> None:
    completed = subprocess.run([BIN / "herdpy", "schema", *arguments], capture_output=True, text=True, timeout=60)
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr.startswith(f"herdpy: {said}")
    assert len(completed.stderr.splitlines()) == 1
