"""Hypothesis strategies for what may be on the wire."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st

from aiomilter.wire.commands import (
    Abort,
    Body,
    Command,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Macro,
    Mail,
    OfferOptions,
    Quit,
    QuitNewConnection,
    Rcpt,
    Unknown,
)
from aiomilter.wire.replies import (
    Accept,
    AddHeader,
    AddRecipient,
    AddRecipientWithParams,
    ChangeHeader,
    ChangeSender,
    ConnectionFailed,
    Continue,
    DeleteRecipient,
    Discard,
    InsertHeader,
    MilterReply,
    Negotiated,
    Progress,
    Quarantine,
    Reject,
    ReplaceBody,
    ReplyCode,
    Shutdown,
    Skip,
    TempFail,
)

# The same examples in every run, and no clock: a slow machine finds no other bugs.
REPEATABLE = settings(derandomize=True, database=None, deadline=None, max_examples=200)

numbers = st.integers(0, 0xFFFFFFFF)
strings = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"?"))
names = strings.filter(bool)
string_lists = st.lists(strings, max_size=5)

commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(OfferOptions, numbers, numbers, numbers),
    st.builds(Macro, st.binary(min_size=1, max_size=1), string_lists),
    st.builds(Connect, strings, st.just(b"U")),
    st.builds(
        Connect, strings, st.sampled_from([b"4", b"6", b"L"]), st.integers(0, 0xFFFF), strings
    ),
    st.builds(Helo, strings),
    st.builds(Mail, st.lists(strings, min_size=1, max_size=5)),
    st.builds(Rcpt, st.lists(strings, min_size=1, max_size=5)),
    # An empty name has no packet of its own: libmilter looks for its NUL from the second byte.
    st.builds(Header, names, strings),
    st.builds(Body, st.binary(min_size=1, max_size=50)),
    st.builds(EndOfMessage, st.binary(max_size=50)),
    st.builds(Unknown, strings),
    st.sampled_from([Data(), EndOfHeaders(), Abort(), Quit(), QuitNewConnection()]),
)

replies: st.SearchStrategy[MilterReply] = st.one_of(
    st.builds(Negotiated, numbers, numbers, numbers, st.dictionaries(numbers, strings, max_size=4)),
    st.builds(ReplyCode, strings),
    st.builds(AddHeader, strings, strings),
    st.builds(InsertHeader, numbers, strings, strings),
    st.builds(ChangeHeader, numbers, strings, strings),
    st.builds(ChangeSender, strings, st.none() | strings),
    st.builds(AddRecipient, strings),
    st.builds(AddRecipientWithParams, strings, st.none() | strings),
    st.builds(DeleteRecipient, strings),
    st.builds(ReplaceBody, st.binary(max_size=50)),
    st.builds(Quarantine, strings),
    st.sampled_from([Continue(), Accept(), Reject(), TempFail(), Discard()]),
    st.sampled_from([Skip(), Progress(), Shutdown(), ConnectionFailed()]),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Any bytes, with lengths small enough often enough that there are packets in them."""
    pieces = st.one_of(
        st.binary(max_size=30),
        st.builds(
            lambda length, rest: length.to_bytes(4, "big") + rest,
            st.integers(0, 12),
            st.binary(min_size=1, max_size=12),
        ),
        commands.map(lambda command: command.encode()),
        replies.map(lambda reply: reply.encode()),
    )
    return b"".join(draw(st.lists(pieces, max_size=8)))


@st.composite
def cut_streams(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """Bytes, and the same bytes in pieces."""
    data = draw(whole)
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=10))
    places = [0, *sorted(cuts), len(data)]
    return data, [data[a:b] for a, b in itertools.pairwise(places)]
