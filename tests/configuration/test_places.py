"""Where a declaration in two layers says things."""

import tomllib

import pytest

from herdpy.configuration.layers import Source
from herdpy.configuration.places import Places
from herdpy.mistake import Place

SHIPPED = """\
requirement = ["a", "b"]
ports = [
  { host = 7 },
]
other = "b"
[settings]
x = 1
[settings."a.b"]
y = 2
"""
OWN = """\
other = "z"

requirement = [
  "c",
  "b",
]
[settings]
z = 7
"""
PLACES = Places(
    [
        Source(name="s", file=file, text=text, table=tomllib.loads(text))
        for file, text in (("shipped", SHIPPED), ("own", OWN))
    ]
)


@pytest.mark.parametrize(
    ("key", "file", "line"),
    [
        ("requirement", "own", 3),
        ("requirement[1]", "own", 5),
        ("requirement[9]", "own", 3),
        ("ports[0].host", "shipped", 3),
        ("ports[0].guest", "shipped", 3),
        ("settings", "own", 7),
        ("settings.z", "own", 8),
        ("settings.x", "shipped", 7),
        ('settings."a.b".y', "shipped", 9),
        ("settings.nowhere", "own", 7),
        ("nowhere", "own", 1),
    ],
)
def test_the_place_of_a_key_is_in_the_layer_that_set_its_value(key: str, file: str, line: int) -> None:
    assert PLACES.place(key) == Place(file=file, line=line, key=key)


@pytest.mark.parametrize(
    ("value", "key", "place"),
    [
        ("b", "requirement", Place(file="own", line=5, key="requirement[1]")),
        ("c", "requirement", Place(file="own", line=4, key="requirement[0]")),
        ("z", "requirement", Place(file="own", line=3, key="requirement")),
        ("z", "", Place(file="own", line=1, key="other")),
        (7, "", Place(file="own", line=8, key="settings.z")),
        (7, "ports", Place(file="shipped", line=3, key="ports[0].host")),
        ("unsaid", "", Place(file="own", line=1, key="")),
    ],
)
def test_the_place_of_a_value(value: object, key: str, place: Place) -> None:
    assert PLACES.place_of_value(value, key) == place
