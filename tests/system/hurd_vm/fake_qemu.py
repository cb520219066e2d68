#!/usr/bin/env python3
"""Stands in for QEMU where only its forwarded ports matter, with a guest that boots at once.

With KVM it is silent for ever. Its secret service serves one client, as a guest's does, and closes its port then. Its
SSH server answers after SIGUSR1.
"""

import re
import signal
import socket
import sys


def listen(*guest_ports: int) -> socket.socket | None:
    """The forwarded port that leads to one of the guest's, as QEMU listens there, whatever the guest does."""
    for port in guest_ports:
        if found := re.search(rf"hostfwd=tcp:127\.0\.0\.1:(\d+)-:{port}(?!\d)", " ".join(sys.argv)):
            return socket.create_server(("127.0.0.1", int(found[1])), backlog=1000)
    return None


def take_secrets(listener: socket.socket) -> None:
    with listener:
        taken = b""
        while not taken:
            with listener.accept()[0] as client:
                client.sendall(b"(secret-service-server (version 0))")
                while more := client.recv(65536):
                    taken += more
    print(f"fake guest: took {len(taken)} bytes", flush=True)


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
secrets, ssh = listen(1004), listen(2222, 22)
if "kvm" in sys.argv:
    signal.pause()  # as on a KVM that boots nothing
if secrets is not None:
    take_secrets(secrets)
print("fake guest: waiting for SIGUSR1", flush=True)
signal.sigwait([signal.SIGUSR1])
while ssh is not None:
    with ssh.accept()[0] as client:
        try:
            client.sendall(b"SSH-2.0-fake\r\n")
        except ConnectionError:
            continue
signal.pause()
