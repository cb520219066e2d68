"""try_files.py DAEMON: start a daemon of libvirt with each configuration file in turn, and tell which ones it takes.

Reads a JSON object of files by name from standard input, and writes one of what came of each by its name: ``ready``, or
the exit status and what was said. To be run in a jail (jail.sh).
"""

import json
import os
import select
import socket
import subprocess
import sys

os.mkdir("/run/elsewhere")  # for unix_sock_dir
subprocess.run(["groupadd", "--system", "libvirt"], check=True)


def came_of(daemon: str, text: str) -> str:
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
        process.terminate()
        said, _ = process.communicate(timeout=30)
    return "ready" if is_ready else f"{process.returncode}: {said}"


if __name__ == "__main__":
    files = json.load(sys.stdin)
    json.dump({name: came_of(sys.argv[1], text) for name, text in files.items()}, sys.stdout)
