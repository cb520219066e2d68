"""What /proc tells of processes, any of which may end while it is read."""

from pathlib import Path


def lives(pid: int) -> bool:
    """Not so a zombie, which waits for whoever is its parent now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):  # read while it ends, it can be empty
        return False


def identity(pid: int) -> tuple[int, str]:
    """PID and start time."""
    return pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def command_line(pid: int) -> list[str]:
    """Its words; none when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def everyone() -> dict[int, list[str]]:
    """The words of each process's command line, by PID."""
    found = ((int(entry.name), command_line(int(entry.name))) for entry in Path("/proc").glob("[0-9]*"))
    return {pid: words for pid, words in found if words}


def with_word(word: str) -> list[int]:
    """PIDs of those that have a word in their command lines."""
    return [pid for pid, words in everyone().items() if word in words]


def qemus(directory: Path) -> list[str]:
    """Command lines of the QEMUs that have to do with a directory."""
    lines = [" ".join(words) for words in everyone().values()]
    return [line for line in lines if line.startswith("qemu-system") and str(directory) in line]


def children(pid: int) -> list[int]:
    """PIDs of the children of its first thread, in the order in which they came."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def programs(keeper: int) -> dict[str, int]:
    """PIDs of the ``keeper``, its ``supervisor`` or ``minimal`` one, and its ``logger``, as far as there are such."""
    if not lives(keeper):
        return {}
    found = {"keeper": keeper}
    for child in children(keeper):
        # Whole words: a child that has not come to its exec yet has the keeper's, which tell of a supervisor.
        words = command_line(child)
        if not lives(child):
            continue
        if words[2:4] == ["-m", "herdpy.supervisor"]:
            found["supervisor"] = child
        elif words[3:4] and words[3].endswith("minimal/__main__.py"):
            found["minimal"] = child
        elif words[3:4] and words[3].endswith("logger/__main__.py") and words[4:5] != ["archive"]:
            found["logger"] = child
    return found
