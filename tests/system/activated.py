"""A small service that is given its sockets (sd_listen_fds(3)): it answers, and ends after a while with nothing to do.

    activated.py SECONDS [CONNECTIONS]

It ends with 0 when nothing has come for SECONDS, or after so many CONNECTIONS.
"""

import os
import selectors
import socket
import sys

FIRST = 3


def main(patience: float, most: int) -> None:
    assert int(os.environ["LISTEN_PID"]) == os.getpid()
    names = os.environ["LISTEN_FDNAMES"].split(":")
    selector = selectors.DefaultSelector()
    for number in range(int(os.environ["LISTEN_FDS"])):
        listening = socket.socket(fileno=FIRST + number)
        assert listening.getblocking()
        listening.setblocking(False)  # which the next process must not find
        selector.register(listening, selectors.EVENT_READ, names[number])
    print("begins with", *names, flush=True)
    taken = 0
    while taken < most and (ready := selector.select(patience)):
        for key, _ in ready:
            listening = key.fileobj
            answer = f"{key.data} {os.getpid()}\n".encode()
            if listening.type == socket.SOCK_DGRAM:
                said, sender = listening.recvfrom(4096)
                listening.sendto(said + b" to " + answer, sender)
            else:
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(answer)
            taken += 1
    print("ends", flush=True)


main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else sys.maxsize)
