"""The reference of the service types is what the types themselves say."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Common

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "reference"
PROGRAM = ROOT / "tools" / "reference.py"


@pytest.fixture
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_pages_are_what_the_types_say(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PROGRAM, tmp_path], check=True, timeout=60, cwd=ROOT)
    assert sorted(page.name for page in tmp_path.iterdir()) == sorted(f"{name}.md" for name in TYPES)
    for page in tmp_path.iterdir():
        committed = PAGES / page.name
        assert committed.read_text() == page.read_text(), f"{committed} is out of date: run python tools/reference.py"


@pytest.mark.parametrize("name", list(TYPES))
def test_a_page_has_the_types_own_fields_first_and_the_common_ones_last(name: str) -> None:
    tables = [
        re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)
        for part in (PAGES / f"{name}.md").read_text().split("\n## ")
    ]
    common = [field.encode_name for field in msgspec.structs.fields(Common)]
    fields = [field.encode_name for field in msgspec.structs.fields(TYPES[name].configuration)]
    assert (tables[0], tables[-1]) == ([key for key in fields if key not in common], common)


class Base(msgspec.Struct, frozen=True):
    old: int = 1
    """Of the base, over
    two lines with ``code``."""
    silent: str = "a | b"


class Derived(Base, frozen=True):
    new: float | None = None
    """Of its own."""


def test_documentation_is_the_text_below_a_field_wherever_it_is_inherited_from(reference: ModuleType) -> None:
    assert reference.documentation(Derived) == {"old": "Of the base, over two lines with `code`.", "new": "Of its own."}


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page}: {link}"
