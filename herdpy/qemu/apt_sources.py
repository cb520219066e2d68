"""Where a Debian suite comes from: the lines of sources.list(5) for it, found among what the host's own apt knows.

apt itself is asked (``apt-get indextargets``, apt-get(8)): it reads both forms of its configuration, and its index
files tell which archive is Debian's and which a third party's. Only ``main`` is taken, of the suite, its updates and
its security updates.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from herdpy.service import Context, StartFailure

DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ROLLING = {"sid", "unstable", "experimental"}
"""Suites without updates of their own."""


async def find_sources(
    context: Context, suite: str, *, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The lines for ``suite``, asked of the host's apt; it needs no network.

    Raises:
        StartFailure: apt fails, or knows no Debian mirror.
    """
    completed = await context.command(["apt-get", "indextargets", "Created-By: Packages"], environment=environment)
    targets = parse_targets(completed.output)
    if completed.status != 0:
        said = completed.output.strip().rpartition("\n")[2]
        raise StartFailure(f"cannot ask apt for its sources: {said}; apt-get update shows more")
    lines = choose(targets, suite, signed_by)
    if not lines:
        raise StartFailure(
            f"cannot find a Debian mirror for {suite} among apt's sources; add one below /etc/apt/sources.list.d"
        )
    return lines


def parse_targets(text: str) -> list[dict[str, str]]:
    """The stanzas of ``apt-get indextargets``, keys in lower case."""
    stanzas = []
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(": ") for line in block.splitlines())
        stanza = {key.lower(): value.strip() for key, separator, value in pairs if separator}
        if "repo-uri" in stanza:
            stanzas.append(stanza)
    return stanzas


def choose(
    targets: Iterable[Mapping[str, str]], suite: str, signed_by: Callable[[Mapping[str, str]], str | None]
) -> tuple[str, ...]:
    """The lines for a suite: what the host has configured for it, or what follows from the Debian mirror it uses.

    Args:
        targets: of :func:`parse_targets`.
        suite: a codename or a suite such as ``stable``.
        signed_by: the keyring that a target's entry names, if it does.
    """
    debian = [(kind, target) for target in targets if (kind := _archive(target)) and target.get("component") == "main"]
    wanted = {suite: "main"}
    if suite not in ROLLING:
        wanted |= {f"{suite}-updates": "main", f"{suite}-security": "security"}
    found: dict[str, str] = {}
    for kind, target in debian:
        for name in {target.get("release", ""), target.get("codename", ""), target.get("suite", "")} & wanted.keys():
            if wanted[name] == kind:
                found.setdefault(name, _line(target["repo-uri"], name, signed_by(target)))
    if suite not in found:
        mirrors = dict(reversed(debian))
        if "main" not in mirrors:
            return ()
        uri = mirrors["main"]["repo-uri"].rstrip("/")
        uris = {
            "main": uri,
            "security": mirrors["security"]["repo-uri"] if "security" in mirrors else f"{uri}-security",
        }
        keyring = signed_by(mirrors["main"])
        found = {name: _line(uris[kind], name, keyring) for name, kind in wanted.items()}
    return tuple(found[name] for name in wanted if name in found)


def signed_by(target: Mapping[str, str]) -> str | None:
    """The keyring that the host's entry for a target names, or Debian's own when it names none that is a file."""
    path, _, number = target.get("sourcesentry", "").rpartition(":")
    entry = ""
    if path and number.isdigit():
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                entry = entry_of(file.read(), int(number), is_stanza=path.endswith(".sources"))
        except OSError:
            entry = ""
    match = re.search(r"(?im)^signed-by:[ \t]*(/\S+)[ \t]*$|\bsigned-by=(/[^\s\],]+)", entry)
    if match:
        return match[1] or match[2]
    return DEBIAN_KEYRING if os.path.exists(DEBIAN_KEYRING) else None


def entry_of(text: str, number: int, *, is_stanza: bool) -> str:
    """Entry ``number`` of a file of sources: a line of it, or in the deb822 form a stanza."""
    entries: Sequence[str] = text.splitlines()
    if is_stanza:
        kept = "\n".join(line for line in entries if not line.startswith("#"))
        entries = [block for block in re.split(r"\n[ \t]*\n", kept) if block.strip()]
    return entries[number - 1] if 0 < number <= len(entries) else ""


def _archive(target: Mapping[str, str]) -> str | None:
    """Whether it is Debian's main archive, its security archive, or (None) another's."""
    origin, label = target.get("origin"), target.get("label", "")
    if origin is None:  # apt-get update has not been run here: there is only the address to go by
        path = target["repo-uri"].rstrip("/")
        return {"debian": "main", "debian-security": "security"}.get(path.rpartition("/")[2])
    if origin != "Debian":
        return None
    return {"Debian": "main", "Debian-Security": "security"}.get(label)


def _line(uri: str, release: str, keyring: str | None) -> str:
    options = f"[signed-by={keyring}] " if keyring else ""
    return f"deb {options}{uri.rstrip('/')} {release} main"
