"""What the building of an image says, in words for a person: how far it is, and why it failed.

The build (guest/build.sh) writes lines ``progress FRACTION WORDS`` and ``error WORDS`` of its own; between them are
those of mmdebstrap, apt, dpkg and qemu-img.
"""

import re
from collections.abc import Callable

import msgspec


class Phase(msgspec.Struct, frozen=True):
    """A part of mmdebstrap's work, recognized by the line that begins it; phases follow one another."""

    begin: str
    words: str
    start: float
    """How much of the whole is done when it begins; the shares are those of the time measured on a quick network."""
    step: str | None
    """The lines that are counted in it."""
    steps_per_package: int = 1


PHASES = (
    Phase("I: running apt-get update", "reading the package lists", 0.01, None),
    Phase("I: downloading packages with apt", "downloading the base system", 0.06, "Get:"),
    Phase("I: extracting archives", "unpacking the base system", 0.10, None),
    Phase("I: installing essential packages", "installing the base system", 0.35, "Unpacking |Setting up ", 2),
    Phase("I: installing remaining packages", "downloading packages", 0.49, "Get:"),
    Phase("Selecting previously unselected", "installing packages", 0.53, "Unpacking |Setting up ", 2),
    Phase("I: running --customize-hook", "downloading the kernel", 0.79, None),
)
COMPRESSING = (0.90, 0.99)
"""The share of qemu-img, which counts in percent."""


def progress_reader() -> Callable[[str], tuple[str, float] | None]:
    """A function to be given each line of a build, in turn.

    It returns the stage in words and how much of the whole is done, from 0 to 1, never less than before; or None, when
    the line says nothing about that.
    """
    phase = -1
    packages = steps = 0
    words, done = "", 0.0

    def read(line: str) -> tuple[str, float] | None:
        nonlocal phase, packages, steps, words, done
        share = None
        if match := re.match(r"progress ([0-9.]+) (.+)", line):
            share, words = float(match[1]), match[2]
        elif match := re.fullmatch(r"\s*\(([0-9.]+)/100%\)\s*", line):
            start, end = COMPRESSING
            share = start + (end - start) * float(match[1]) / 100
        elif match := re.search(r"\b(\d+) newly installed", line):
            packages = int(match[1])
        elif phase + 1 < len(PHASES) and line.startswith(PHASES[phase + 1].begin):
            phase, steps = phase + 1, 0
            share, words = PHASES[phase].start, PHASES[phase].words
        elif phase >= 0 and packages and (step := PHASES[phase].step) and re.match(step, line):
            steps += 1
            start, end = PHASES[phase].start, PHASES[phase + 1].start
            share = start + (end - start) * min(1.0, steps / (packages * PHASES[phase].steps_per_package))
        if share is None:
            return None
        done = max(done, share)
        return words, done

    return read


def reason(output: str, status: int, directory: str) -> str:
    """Why a build failed, as one sentence with the next step, from what it wrote.

    Args:
        output: all it wrote, or the end of that.
        status: the exit code, or the negative number of a signal.
        directory: where it worked.
    """
    if re.search(r"No space left on device|don't have enough free space", output):
        return f"there is no space left in {directory}: free some, or move herdpy's state directory"
    if "Disk quota exceeded" in output:
        return f"the disk quota in {directory} is exceeded: free some space, or move herdpy's state directory"
    if match := re.search(r"^error (.+)", output, re.MULTILINE):
        return match[1]
    if match := re.search(
        r"^E: The repository '(\S+) (\S+) Release' does not have a Release file", output, re.MULTILINE
    ):
        return f"{match[1]} has no suite {match[2]}: correct the suite, or apt's sources"
    if match := re.search(r"^E: The repository '(.+?)' is not signed|^.*GPG error: (.+?):? ", output, re.MULTILINE):
        where = match[1] or match[2]
        return f"{where} is not signed by a key that this host trusts: apt-get install debian-archive-keyring"
    if match := re.search(r"^[EW]: Failed to fetch (\S+)\s+(.+)$", output, re.MULTILINE):
        return (
            f"cannot download {match[1]}: {match[2].strip()}; check the network, and the proxy in apt's configuration"
        )
    if match := re.search(r"^E: Unable to locate package (\S+)", output, re.MULTILINE):
        return f"there is no package {match[1]} in this suite: correct the packages of the image"
    if match := re.search(r"^(unshare: .+)$", output, re.MULTILINE):
        return f"{match[1]}: mounting needs to be allowed, for an ordinary user in user namespaces (user_namespaces(7))"
    if status < 0:
        return f"it was killed by signal {-status}" + ("; was memory short?" if status == -9 else "")
    last = [line for line in output.splitlines() if re.match(r"E: |\S+: ", line)][-1:]
    return f"it ended with status {status}" + (f": {last[0].removeprefix('E: ')}" if last else "")
