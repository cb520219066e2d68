"""Messages of sd_notify(3), and what comes with them."""

import array
import os
import socket

from hypothesis import given
from hypothesis import strategies as st

from herdpy.supervisor import notify

NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1)
VALUES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))


@given(st.dictionaries(NAMES, VALUES))
def test_what_is_assigned_is_read(assignments):
    message = "\n".join(f"{name}={value}" for name, value in assignments.items())
    assert notify.parse(message.encode()) == assignments
    assert notify.parse(message.encode() + b"\n") == assignments


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_something(message):
    for name, value in notify.parse(message).items():
        assert name
        assert "\n" not in name + value


@given(st.integers(0, 2**64 - 1))
def test_microseconds_are_seconds(number):
    assert notify.microseconds(str(number)) == number / 1e6


def test_what_is_no_number_of_microseconds_is_none():
    for text in ("", "-1", "+1", "1.5", " 1", "infinity", "\u0661", "9" * 21):
        assert notify.microseconds(text) is None


def test_what_came_with_a_message_is_closed_to_the_last():
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reading, writing = os.pipe()
    with here, there:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        socket.send_fds(there, [b"FDSTORE=1"], [writing] * notify.MOST_DESCRIPTORS)
        os.close(writing)
        _, ancillary, _, _ = here.recvmsg(notify.LARGEST_MESSAGE, notify.PEEKED_SIZE, socket.MSG_PEEK)
        assert notify.sender(ancillary) == os.getpid()
        assert all(kind != socket.SCM_RIGHTS for _, kind, _ in ancillary), "a look brings no descriptors"
        _, ancillary, flags, _ = here.recvmsg(notify.LARGEST_MESSAGE, notify.CONSUMED_SIZE)
        assert notify.sender(ancillary) == os.getpid()
        assert not flags & socket.MSG_CTRUNC
        (rights,) = (content for _, kind, content in ancillary if kind == socket.SCM_RIGHTS)
        assert len(rights) == notify.MOST_DESCRIPTORS * array.array("i").itemsize
        notify.close_descriptors(ancillary)
        assert os.read(reading, 1) == b"", "nobody has the other end any more"
        os.close(reading)
