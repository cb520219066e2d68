"""try_files.py DAEMON: start a daemon of libvirt with each configuration file in turn, and tell which ones it takes.

Reads a JSON object from standard input: by name, a file, and the directory of the sockets at which libvirtd is to be
asked whether it is of use, as herdpy asks it, or null. Writes one of what came of each by its name: ``ready``; ``ready,
but`` and why it did not answer; or the exit status and what was said. To be run in a jail (jail.sh).
"""

import json
import os
import select
import socket
import subprocess
import sys

import trio

from herdpy.libvirt.asking import Socket
from herdpy.libvirt.rpc import NoAnswer

os.mkdir("/run/elsewhere")  # for unix_sock_dir
subprocess.run(["groupadd", "--system", "libvirt"], check=True)


def came_of(daemon: str, text: str, directory: str | None) -> str:
    with open("/run/tried.conf", "w") as file:
        file.write(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0tried")
        heard.settimeout(30)
        process = subprocess.Popen(
            [daemon, "-f", "/run/tried.conf"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": "@tried"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # Its end closes its output: whichever comes first.
        pidfd = os.pidfd_open(process.pid)
        readable, _, _ = select.select([heard, pidfd], [], [], 30)
        os.close(pidfd)
        is_ready = heard in readable and b"READY=1" in heard.recv(4096)
        problem = answered(directory) if is_ready and directory is not None else ""
        process.terminate()
        said, _ = process.communicate(timeout=120)
    return f"ready{problem}" if is_ready else f"{process.returncode}: {said}"


def answered(directory: str) -> str:
    try:
        trio.run(ask, Socket(directory=directory, is_root=True))
    except NoAnswer as problem:
        return f", but {problem}"
    return ""


async def ask(socket: Socket) -> None:
    with trio.fail_after(30):
        await socket.answer()


if __name__ == "__main__":
    files = json.load(sys.stdin)
    json.dump({name: came_of(sys.argv[1], *file) for name, file in files.items()}, sys.stdout)
