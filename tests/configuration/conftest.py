from collections.abc import Callable
from pathlib import Path

import pytest

Declare = Callable[..., Path]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    """Writes a declaration into a layer: ``declare("a", 'command = ["true"]', layer="etc")``; returns its path."""

    def write(name: str, text: str, layer: str = "layer") -> Path:
        directory = tmp_path / layer
        directory.mkdir(mode=0o755, exist_ok=True)
        path = directory / f"{name}.toml"
        path.write_text(text)
        path.chmod(0o644)
        return path

    return write
