"""``herd tree``: which service requires which, or has it as a member, and how they are."""

import json

from herdpy.client import status
from herdpy.client.words import Failure, Palette, clean, is_unicode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Fields = dict[str, object]

BOXES = ("├─ ", "└─ ", "│  ", "   ")
ASCII = ("|- ", "`- ", "|  ", "   ")
WORDS = {"one-shot": "stopped, one-shot", "failing": "failed to start"}


class Row:
    """One line of the tree."""

    __slots__ = ("is_last", "is_repeated", "name", "service")

    def __init__(self, name: str, service: "Fields | None", is_last: "tuple[bool, ...]", is_repeated: bool) -> None:
        self.name = name
        self.service = service
        """None when nobody provides it (GNU Shepherd lets that pass)."""
        self.is_last = is_last
        """For each level above it and its own, whether nothing more comes there."""
        self.is_repeated = is_repeated
        """Whether what it requires is shown further up already."""


def rows(services: "list[Fields]", top: str) -> "Iterator[Row]":
    """Yield the tree below ``top``, depth first; below ``root`` stands what no other service requires.

    What several require is opened once, so that the tree is never longer than the plan, and ends even if a server lets
    a cycle through.

    Raises:
        Failure: when there is no service ``top``.
    """
    named = {str(alias): service for service in services for alias in status.items(service, "provides")}
    canonical = {alias: status.name(service) for alias, service in named.items()}
    required = {
        name: list(dict.fromkeys(canonical.get(word, word) for word in status.required(service)))
        for name, service in ((status.name(service), service) for service in services)
    }
    if top not in canonical:
        raise Failure(f"service '{top}' could not be found", error=["error", ["version", 0], "service-not-found", top])
    top = canonical[top]
    if top == canonical.get("root"):
        below = {name for names in required.values() for name in names}
        required[top] += [name for name in required if name not in below and name != top]
        # In a cycle each is required by another, and none would be shown.
        reached = _reached(required, top)
        required[top] += [name for name in required if name not in reached]
    opened: set[str] = set()
    waiting: list[tuple[str, tuple[bool, ...]]] = [(top, ())]
    while waiting:
        name, is_last = waiting.pop()
        below_it = required.get(name, [])
        yield Row(name, named.get(name), is_last, name in opened and bool(below_it))
        if name not in opened:
            opened.add(name)
            following = sorted(below_it, reverse=True)
            waiting += [(each, (*is_last, each is following[0])) for each in following]


def _reached(required: "dict[str, list[str]]", top: str) -> set[str]:
    reached: set[str] = set()
    waiting = [top]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += required.get(name, [])
    return reached


def render(services: "list[Fields]", top: str, colors: Palette) -> str:
    """Return what ``herd tree`` prints.

    Raises:
        Failure: as :func:`rows`.
    """
    branch, last_branch, line, space = BOXES if is_unicode() else ASCII
    lines: list[str] = []
    for row in rows(services, top):
        prefix = ""
        if row.is_last:
            above = [space if is_last else line for is_last in row.is_last[:-1]]
            prefix = "".join(above) + (last_branch if row.is_last[-1] else branch)
        color, words = _state(row, colors)
        plain = colors.plain if color else ""
        more = " (see above)" if row.is_repeated else ""
        lines.append(f"{prefix}{clean(row.name)}: {color}{clean(words)}{plain}{more}\n")
    return "".join(lines)


def as_json(services: "list[Fields]", top: str) -> str:
    """Return the same lines as a JSON array of objects; ``depth`` says how far below ``top``.

    Raises:
        Failure: as :func:`rows`.
    """
    lines = [
        {
            "name": row.name,
            "depth": len(row.is_last),
            "status": None if row.service is None else status.state(row.service),
            "failing": row.service is not None and status.group(row.service) == "failing",
            "enabled": row.service is not None and row.service.get("enabled?") is not False,
            "repeated": row.is_repeated,
        }
        for row in rows(services, top)
    ]
    return json.dumps(lines, indent=2, ensure_ascii=False) + "\n"


def _state(row: Row, colors: Palette) -> tuple[str, str]:
    """Return the colour and the words for how a service is."""
    if row.service is None:
        return colors.error, "nobody provides it"
    group = status.group(row.service)
    words = WORDS.get(group, group)
    if row.service.get("enabled?") is False:
        words += ", disabled"
    return {"running": colors.bold, "failing": colors.error}.get(group, ""), words
