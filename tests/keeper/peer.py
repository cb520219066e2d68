"""A supervisor that hands its line over to the test: python peer.py DESCRIPTOR SOCKET.

It gives the test its end of the keeper's line, and ends when the test tells it a status.
"""

import os
import socket
import sys

from herdpy.keeper.message import ancillary

print(f"supervisor {os.getpid()} is here", flush=True)
test = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
test.connect(sys.argv[2])
test.sendmsg([str(os.getpid()).encode()], ancillary([int(sys.argv[1])]))
sys.exit(int(test.recv(16) or b"99"))
