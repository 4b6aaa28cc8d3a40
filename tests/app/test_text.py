"""Between bytes and text: nothing is lost, nothing fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.text import decode_text, encode_text


@given(st.binary())
def test_any_bytes_survive_the_round_trip(data: bytes) -> None:
    assert encode_text(decode_text(data), "it") == data


def test_utf8_is_readable() -> None:
    assert decode_text(b"gr\xc3\xbc\xc3\x9fe") == "grüße"


def test_a_surrogate_that_stands_for_no_byte_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"a name is no text that can be sent: 'a\\ud800'"):
        encode_text("a\ud800", "a name")
