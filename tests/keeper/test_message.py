"""Packets say what was meant, and nothing else gets through."""

import json
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.keeper.message import LIMIT, MessageError, ancillary, decode, descriptors, encode

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
messages = st.dictionaries(st.text(), json_values, max_size=5).map(lambda message: {**message, "kind": "test"})


@given(messages)
def test_a_message_comes_back(message: dict[str, object]) -> None:
    assert decode(encode(message)) == message


@given(messages)
def test_it_is_json_to_everyone(message: dict[str, object]) -> None:
    assert json.loads(encode(message)) == message
    assert msgspec.json.decode(encode(message)) == message
    assert decode(msgspec.json.encode(message)) == message
    assert decode(json.dumps(message, indent=1, ensure_ascii=False).encode()) == message


@given(st.binary())
def test_bytes_that_no_file_system_encoding_knows_survive(raw: bytes) -> None:
    assert os.fsencode(decode(encode({"kind": "test", "path": os.fsdecode(raw)}))["path"]) == raw


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    try:
        message = decode(packet)
    except MessageError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(message["kind"], str)


@pytest.mark.parametrize(
    "packet",
    [b"", b"{", b"[" * 100_000, b'{"kind": 1}', b'{"kind": "a"} {}', b'{"kind": "a", "x": NaN}', b"null", b'{"a": 1}'],
)
def test_a_packet_that_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(MessageError):
        decode(packet)


@pytest.mark.parametrize("field", [float("nan"), b"bytes", object(), {1, 2}])
def test_what_json_cannot_say_is_refused(field: object) -> None:
    with pytest.raises(MessageError):
        encode({"kind": "test", "field": field})


def test_a_message_longer_than_the_limit_is_refused_with_both_sizes() -> None:
    longest = "x" * (LIMIT - len(encode({"kind": "test", "text": ""})))
    assert len(encode({"kind": "test", "text": longest})) == LIMIT
    with pytest.raises(MessageError, match=f"{LIMIT + 1} bytes; at most {LIMIT}"):
        encode({"kind": "test", "text": longest + "x"})


def test_descriptors_travel_both_ways() -> None:
    assert descriptors(ancillary([3, 70_000])) == [3, 70_000]
    assert ancillary([]) == []
    assert descriptors([(1, 2, b"\0" * 12), (1, 1, b"\5\0\0")]) == []
