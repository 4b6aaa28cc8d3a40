"""What holds for any milter, seen from the MTA."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.conversation import Conversation
from aiomilter.app.mta.envelope import Envelope
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Outcome
from aiomilter.errors import RemoteProtocolError
from tests.packets import packet
from tests.wire.strategies import REPEATABLE

ENVELOPE = Envelope("a@example.com", ["b@example.org", "c@example.org"])
CONTENT = Content([("Subject", " test")], b"body\r\n")

payloads = st.one_of(
    st.just(b""),
    st.sampled_from([b"550 5.7.1 no\0", b"X\0v\0", b"\0\0\0\x01X\0v\0", b"<a@b>\0"]),
    st.binary(max_size=20),
)
packets = st.builds(packet, st.sampled_from("Ocartdys4fphime+2-bqZ"), payloads)


def agreement_of(version: int, actions: int, options: int, rest: bytes) -> bytes:
    """What a milter answers to an offer."""
    return packet("O", struct.pack(">III", version, actions, options) + rest)


agreements = st.builds(
    agreement_of,
    st.sampled_from([1, 2, 3, 6, 6, 6, 7]),
    st.sampled_from([0, 0x1F, 0x1FF, 0x3FF]),
    st.one_of(st.just(0), st.integers(0, 0x1FFFFF), st.sampled_from([0x0FF080, 0x37F, 1 << 29])),
    st.sampled_from([b"", b"", b"", b"\0\0\0\x02i j\0", b"\0\0\0\x05\0", b"junk"]),
)
good = st.sampled_from([packet("c")] * 9 + [packet("p") + packet("a"), packet("s")])
scripts = st.lists(st.one_of(good, good, good, packets, st.binary(max_size=8)), max_size=16)
mtas = st.sampled_from(Mta)


class End(Exception):
    """The milter has closed the connection."""


def consult(mta: Mta, script: list[bytes], cut: int) -> tuple[bytes, Outcome | str | None]:
    """What is sent, and what comes of it: an outcome, a broken rule, or None at the end.

    Each wait is answered with one entry of the script, in pieces of ``cut`` bytes.
    """
    conversation = Conversation(mta=mta)
    session = conversation.session
    answers = iter(script)
    sent = b""

    def run(steps: Any) -> Any:
        nonlocal sent
        pieces: list[bytes] = []
        while True:
            try:
                must_read = next(steps)
            except StopIteration as end:
                return end.value
            sent += session.data_to_send()
            if not must_read:
                continue
            if not pieces:
                if session.has_eof:
                    raise End
                data = next(answers, b"")
                if not data:
                    session.receive_eof()
                pieces = [data[at : at + cut] for at in range(0, len(data), cut)][::-1]
            if pieces:
                session.receive_data(pieces.pop())

    try:
        run(conversation.negotiate())
        return sent, run(conversation.send(ENVELOPE, CONTENT))
    except RemoteProtocolError as error:
        return sent, error.rule
    except End:
        return sent, None


@REPEATABLE
@given(mtas, agreements, scripts)
def test_any_milter_comes_to_an_outcome_an_error_or_an_end(
    mta: Mta, agreement: bytes, script: list[bytes]
) -> None:
    _, found = consult(mta, [agreement, *script], 1 << 20)
    assert found is None or isinstance(found, (Outcome, str))


@REPEATABLE
@given(mtas, st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_any_bytes_come_to_an_outcome_an_error_or_an_end(mta: Mta, script: list[bytes]) -> None:
    _, found = consult(mta, script, 1 << 20)
    assert found is None or isinstance(found, (Outcome, str))


@REPEATABLE
@given(mtas, agreements, st.lists(st.one_of(good, packets), max_size=16), st.integers(1, 7))
def test_how_the_bytes_arrive_does_not_matter(
    mta: Mta, agreement: bytes, script: list[bytes], cut: int
) -> None:
    sent, found = consult(mta, [agreement, *script], 1 << 20)
    sent_too, found_too = consult(mta, [agreement, *script], cut)
    if isinstance(found, Outcome) and isinstance(found_too, Outcome):
        assert found == found_too
    # What stands behind a verdict is an error at once, or taken for the answer to what follows.
    if found != "a reply where none is due":
        assert (sent, found) == (sent_too, found_too)
