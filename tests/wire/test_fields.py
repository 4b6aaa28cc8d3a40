from __future__ import annotations

import pytest

from aiomilter.errors import LocalProtocolError
from aiomilter.wire.fields import c_string, join_strings, split_strings


@pytest.mark.parametrize(
    ("payload", "strings"),
    [
        (b"", []),
        (b"a", []),
        (b"\0", [b""]),
        (b"a\0", [b"a"]),
        (b"a\0b\0", [b"a", b"b"]),
        (b"a\0\0b\0", [b"a", b"", b"b"]),
        (b"a\0tail", [b"a"]),
    ],
)
def test_strings_end_in_nul_and_a_rest_is_dropped(payload: bytes, strings: list[bytes]) -> None:
    assert split_strings(payload) == strings


@pytest.mark.parametrize(
    ("strings", "payload"),
    [((b"",), b"\0"), ((b"a",), b"a\0"), ((b"a", b"", b"b"), b"a\0\0b\0")],
)
def test_every_string_gets_its_nul(strings: tuple[bytes, ...], payload: bytes) -> None:
    assert join_strings(*strings) == payload


@pytest.mark.parametrize("strings", [(b"\0",), (b"a\0",), (b"a", b"b\0c")])
def test_string_with_nul_would_shift_the_others(strings: tuple[bytes, ...]) -> None:
    with pytest.raises(LocalProtocolError, match="NUL"):
        join_strings(*strings)


@pytest.mark.parametrize(
    ("data", "string"), [(b"", b""), (b"\0a", b""), (b"a", b"a"), (b"a\0b\0", b"a")]
)
def test_c_string_ends_at_its_first_nul(data: bytes, string: bytes) -> None:
    assert c_string(data) == string
