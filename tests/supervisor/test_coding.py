"""The line's messages by msgspec: what the keeper reads is what was meant, and back, undecodable bytes included."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.keeper import message
from herdpy.supervisor import coding

TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates, too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.dictionaries(TEXT, VALUES, max_size=5).map(lambda fields: {**fields, "kind": "note"})


@given(MESSAGES)
def test_both_ends_read_what_the_other_has_said(told: dict[str, object]) -> None:
    assert message.decode(coding.encode(told)) == told
    assert coding.decode(message.encode(told)) == told
    assert b"\n" not in coding.encode(told)


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(message.MessageError, match=f"at most {message.LIMIT} can be sent"):
        coding.encode({"kind": "note", "text": "x" * message.LIMIT})
    assert len(coding.encode({"kind": "note", "text": "\u20ac" * (message.LIMIT // 3 - 20)})) <= message.LIMIT


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(message.MessageError):
        coding.encode({"kind": "note", "text": object()})


@pytest.mark.parametrize("packet", [b"", b"{", b"[1]", b'{"kind": "a"} x', b"\xff", b'{"kind": NaN}'])
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(message.MessageError):
        coding.decode(packet)


def test_numbers_stay_what_they_are() -> None:
    told = {"kind": "a", "big": 2**70, "small": -(2**63), "float": math.pi}
    assert message.decode(coding.encode(told)) == told
    assert coding.decode(message.encode(told)) == told
