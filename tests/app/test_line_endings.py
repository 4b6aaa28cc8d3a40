"""The line ends of a new body: what passes, what is refused, what is mended."""

from __future__ import annotations

import re
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.line_endings import BodyLines

BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
MIB = 2**20

pieces_of_lines = st.lists(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"."])).map(b"".join), max_size=6
)


def refusal(*pieces: bytes) -> str | None:
    """Return what is wrong with a body in pieces, the first thing of it."""
    lines = BodyLines()
    try:
        for piece in pieces:
            assert lines.take(piece, "checked") == piece
    except ValueError as error:
        return str(error)
    return lines.fault


@given(pieces_of_lines)
def test_a_bare_cr_is_found_however_the_body_is_cut(pieces: list[bytes]) -> None:
    has_bare_cr = re.search(rb"\r(?!\n)", b"".join(pieces)) is not None
    assert (refusal(*pieces) is not None) == has_bare_cr


@given(pieces_of_lines)
def test_line_ends_become_canonical_however_the_body_is_cut(pieces: list[bytes]) -> None:
    lines, whole = BodyLines(), BodyLines()
    body = b"".join(lines.take(piece, "canonical") for piece in pieces)
    assert body == whole.take(b"".join(pieces), "canonical")
    assert not BARE.search(body)
    # As by the definition: each CRLF, each CR and each LF is one line end.
    assert body == re.sub(rb"\r\n|\r|\n", b"\r\n", b"".join(pieces))
    assert lines.fault is None


@given(pieces_of_lines)
def test_raw_pieces_are_left_alone(pieces: list[bytes]) -> None:
    lines = BodyLines()
    assert [lines.take(piece, "raw") for piece in pieces] == pieces
    assert lines.fault is None


def test_a_refused_piece_is_as_if_it_had_not_been_handed_over() -> None:
    lines = BodyLines()
    with pytest.raises(ValueError, match="at index 1"):
        lines.take(b"a\rb", "checked")
    assert lines.take(b"a\r", "raw") == b"a\r"
    lines = BodyLines()
    lines.take(b"a\r", "checked")
    assert lines.fault is not None
    with pytest.raises(ValueError, match="the piece before ends in one"):
        lines.take(b"b\r\n", "checked")
    assert lines.fault is not None
    lines.take(b"\nb\r\n", "checked")
    assert lines.fault is None


def test_all_pieces_have_the_same_line_endings() -> None:
    lines = BodyLines()
    lines.take(b"a\r\n", "checked")
    with pytest.raises(ValueError, match="same line_endings: 'checked', not 'raw'"):
        lines.take(b"b", "raw")


def test_line_endings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="one of checked, canonical, raw, not 'crlf'"):
        BodyLines().take(b"a", cast("Any", "crlf"))


@pytest.mark.parametrize(
    "unit", [b"x", b"x" * 76 + b"\r\n", b"\r\n", b"\n"], ids=["x", "lines", "crlf", "lf"]
)
def test_64_mib_are_looked_at_in_well_under_a_second(unit: bytes) -> None:
    # An eighth of it in an eighth of the time; the allowance is for a machine under load.
    piece = unit * (8 * MIB // len(unit))
    began = time.process_time()
    BodyLines().take(piece, "checked")
    assert time.process_time() - began < 1 / 8
