"""TCP ports for the tests: nobody else is given one, in this process or in another, until the process ends."""

import itertools
import os
import socket

BEFORE_EPHEMERAL = range(20000, 32000)
"""Not among those that the kernel gives to whoever connects (``ip_local_port_range``, 32768 and up)."""

_claims: list[socket.socket] = []
_candidates = itertools.islice(itertools.cycle(BEFORE_EPHEMERAL), os.getpid() * 97 % len(BEFORE_EPHEMERAL), None)


def free_port() -> int:
    """A port at which nobody listens and on which no connection lingers.

    Claimed with a name in the abstract namespace of Unix sockets: each network namespace has its own, as it has its own
    ports, and nothing is left of the claim when this process has ended.

    Raises:
        AssertionError: all are taken.
    """
    for port in itertools.islice(_candidates, len(BEFORE_EPHEMERAL)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0herdpy-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise AssertionError("no port is free")
