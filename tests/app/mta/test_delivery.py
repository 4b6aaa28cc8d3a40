"""What Postfix and Sendmail make of edits.

The tables hold what both have delivered: Postfix 3.7.11 and Sendmail 8.17.1.9.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery, deliver
from aiomilter.app.mta.edits import (
    BodyReplaced,
    Edit,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.kind import Mta

BOTH = pytest.mark.parametrize("mta", Mta)

TOP = ("From: a@src.example", "Date: today")
MESSAGE = Content.parse(
    "From: a@src.example\nDate: today\nMessage-Id: <1@src.example>\n"
    "X-A: 1\nReceived: r\nx-a: 2\nX-A: 3\n\nbody\n"
)
ID, R, X1, X2, X3 = "Message-Id: <1@src.example>", "Received: r", "X-A: 1", "x-a: 2", "X-A: 3"
ENVELOPE = Envelope("<a@src.example>", ["<b@dst.example>", "<c@dst.example>"])


def delivered(
    mta: Mta,
    *edits: Edit,
    envelope: Envelope = ENVELOPE,
    content: Content = MESSAGE,
    leading_space: bool = False,
) -> Delivery:
    return deliver(mta, envelope, content, edits, leading_space=leading_space)


def lines(content: Content) -> list[str]:
    return [f"{name}:{value}" for name, value in content.headers]


class HeaderCase(NamedTuple):
    """Edits of `MESSAGE`, and the headers that are delivered."""

    edits: list[Edit]
    postfix: list[str]
    sendmail: list[str]


def alike(edits: list[Edit], headers: list[str]) -> HeaderCase:
    return HeaderCase(edits, headers, headers)


HEADER_CASES = {
    "none": alike([], [*TOP, ID, X1, R, X2, X3]),
    "add a new one": alike([HeaderAdded("X-B", "n")], [*TOP, ID, X1, R, X2, X3, "X-B: n"]),
    "add one of a name that is there": HeaderCase(
        [HeaderAdded("x-A", "n")],
        [*TOP, ID, X1, R, X2, X3, "x-A: n"],
        [*TOP, ID, "x-A: n", X1, R, X2, X3],
    ),
    "add two of a name": HeaderCase(
        [HeaderAdded("X-B", "1"), HeaderAdded("X-B", "2")],
        [*TOP, ID, X1, R, X2, X3, "X-B: 1", "X-B: 2"],
        [*TOP, ID, X1, R, X2, X3, "X-B: 2", "X-B: 1"],
    ),
    "add one that the MTA makes itself": HeaderCase(
        [HeaderAdded("message-id", "n"), HeaderAdded("Date", "1"), HeaderAdded("Date", "2")],
        [*TOP, ID, X1, R, X2, X3, "message-id: n", "Date: 1", "Date: 2"],
        ["Date: 2", "Date: 1", "Message-Id: n", *TOP, ID, X1, R, X2, X3],
    ),
    "add a Received header": HeaderCase(
        [HeaderAdded("received", "n")],
        [*TOP, ID, X1, R, X2, X3, "received: n"],
        ["received: n", *TOP, ID, X1, R, X2, X3],
    ),
    "add an empty one": alike([HeaderAdded("X-B", "")], [*TOP, ID, X1, R, X2, X3, "X-B: "]),
    "add a folded one": alike(
        [HeaderAdded("X-B", "n\n\to\n p")], [*TOP, ID, X1, R, X2, X3, "X-B: n\n\to\n p"]
    ),
    "add one that is folded wrongly": HeaderCase(
        [HeaderAdded("X-B", "n\no\n")],
        [*TOP, ID, X1, R, X2, X3, "X-B: n\n\to\n\t"],
        [*TOP, ID, X1, R, X2, X3, "X-B: n\n o\n "],
    ),
    "add one of bytes": alike(
        [HeaderAdded("X-B", "ü\udce9")], [*TOP, ID, X1, R, X2, X3, "X-B: ü\udce9"]
    ),
    "insert at 0": alike([HeaderInserted(0, "X-B", "n")], ["X-B: n", *TOP, ID, X1, R, X2, X3]),
    "insert at 0 and at 0": alike(
        [HeaderInserted(0, "X-B", "1"), HeaderInserted(0, "X-B", "2")],
        ["X-B: 2", "X-B: 1", *TOP, ID, X1, R, X2, X3],
    ),
    "insert at 1 and at 0": alike(
        [HeaderInserted(1, "X-B", "1"), HeaderInserted(0, "X-B", "2")],
        ["X-B: 2", "X-B: 1", *TOP, ID, X1, R, X2, X3],
    ),
    "insert at 0 and at 1": alike(
        # The second one comes between the first and the MTA's own Received header.
        [HeaderInserted(0, "X-B", "1"), HeaderInserted(1, "X-B", "2")],
        ["X-B: 1", "X-B: 2", *TOP, ID, X1, R, X2, X3],
    ),
    "insert at 2": HeaderCase(
        [HeaderInserted(2, "X-B", "n")],
        [TOP[0], "X-B: n", TOP[1], ID, X1, R, X2, X3],
        ["X-B: n", *TOP, ID, X1, R, X2, X3],
    ),
    "insert at 8": HeaderCase(
        [HeaderInserted(8, "X-B", "n")],
        [*TOP, ID, X1, R, X2, X3, "X-B: n"],
        ["X-B: n", *TOP, ID, X1, R, X2, X3],
    ),
    "insert at 9": HeaderCase(
        [HeaderInserted(9, "X-B", "n")],
        [*TOP, ID, X1, R, X2, X3, "X-B: n"],
        [TOP[0], "X-B: n", TOP[1], ID, X1, R, X2, X3],
    ),
    "insert beyond the end": alike(
        [HeaderInserted(99, "X-A", "1"), HeaderInserted(2147483647, "X-A", "2")],
        [*TOP, ID, X1, R, X2, X3, "X-A: 1", "X-A: 2"],
    ),
    "insert at an index with the sign bit": HeaderCase(
        [HeaderInserted(4294967295, "X-B", "n")],
        [*TOP, ID, X1, R, X2, X3, "X-B: n"],
        ["X-B: n", *TOP, ID, X1, R, X2, X3],
    ),
    "change one": HeaderCase(
        [HeaderChanged("X-a", 2, "n")],
        [*TOP, ID, X1, R, "X-a: n", X3],
        [*TOP, ID, X1, R, "x-a: n", X3],
    ),
    "change number 0": alike([HeaderChanged("X-A", 0, "n")], [*TOP, ID, "X-A: n", R, X2, X3]),
    "change one that is not there": alike(
        [HeaderChanged("X-B", 3, "n")], [*TOP, ID, X1, R, X2, X3, "X-B: n"]
    ),
    "change a fourth of three": HeaderCase(
        [HeaderChanged("X-A", 4, "n")],
        [*TOP, ID, X1, R, X2, X3, "X-A: n"],
        [*TOP, ID, "X-A: n", X1, R, X2, X3],
    ),
    "change a second one that the MTA makes itself": HeaderCase(
        [HeaderChanged("Date", 2, "n")],
        [*TOP, ID, X1, R, X2, X3, "Date: n"],
        ["Date: n", *TOP, ID, X1, R, X2, X3],
    ),
    "change the first Received header": alike(
        [HeaderChanged("Received", 1, "n")], [*TOP, ID, X1, "Received: n", X2, X3]
    ),
    "change a second Received header": HeaderCase(
        [HeaderChanged("Received", 2, "n")],
        [*TOP, ID, X1, R, X2, X3, "Received: n"],
        ["Received: n", *TOP, ID, X1, R, X2, X3],
    ),
    "change what was added": HeaderCase(
        [HeaderAdded("X-A", "4"), HeaderChanged("X-A", 4, "n")],
        [*TOP, ID, X1, R, X2, X3, "X-A: n"],
        [*TOP, ID, "X-A: 4", X1, R, X2, "X-A: n"],
    ),
    "change what was inserted on top": alike(
        [HeaderInserted(0, "X-A", "0"), HeaderChanged("X-A", 1, "n")],
        ["X-A: n", *TOP, ID, X1, R, X2, X3],
    ),
    "change a Received header that was inserted on top": alike(
        [HeaderInserted(0, "Received", "0"), HeaderChanged("Received", 1, "n")],
        ["Received: n", *TOP, ID, X1, R, X2, X3],
    ),
    "delete the Received header below one that was inserted on top": alike(
        [HeaderInserted(0, "Received", "0"), HeaderChanged("Received", 2, None)],
        ["Received: 0", *TOP, ID, X1, X2, X3],
    ),
    "delete one": alike([HeaderChanged("x-A", 2, None)], [*TOP, ID, X1, R, X3]),
    "delete one by an empty value": alike([HeaderChanged("X-A", 2, "")], [*TOP, ID, X1, R, X3]),
    "delete one that is not there": alike(
        [HeaderChanged(name, index, None) for name, index in (("X-B", 1), ("X-A", 4), ("Date", 2))],
        [*TOP, ID, X1, R, X2, X3],
    ),
    "delete one that the MTA makes itself": alike(
        [HeaderChanged("Date", 1, None)], [TOP[0], ID, X1, R, X2, X3]
    ),
    "delete the first and the second": HeaderCase(
        # Postfix counts anew, Sendmail does not.
        [HeaderChanged("X-A", 1, None), HeaderChanged("X-A", 2, None)],
        [*TOP, ID, R, X2],
        [*TOP, ID, R, X3],
    ),
    "delete the first three times": HeaderCase(
        [HeaderChanged("X-A", 1, None)] * 3, [*TOP, ID, R], [*TOP, ID, R, X2, X3]
    ),
    "delete from the last on": alike(
        [HeaderChanged("X-A", number, None) for number in (3, 2, 1)], [*TOP, ID, R]
    ),
    "delete and change the same": HeaderCase(
        [HeaderChanged("X-A", 1, None), HeaderChanged("X-a", 1, "n")],
        [*TOP, ID, R, "X-a: n", X3],
        [*TOP, ID, "X-A: n", R, X2, X3],
    ),
    "delete all and add one": HeaderCase(
        [*(HeaderChanged("X-A", number, None) for number in (3, 2, 1)), HeaderAdded("x-A", "n")],
        [*TOP, ID, R, "x-A: n"],
        [*TOP, ID, "x-A: n", R],
    ),
    "delete and add one that the MTA makes itself": HeaderCase(
        [HeaderChanged("Date", 1, None), HeaderAdded("Date", "n")],
        [TOP[0], ID, X1, R, X2, X3, "Date: n"],
        ["Date: n", TOP[0], ID, X1, R, X2, X3],
    ),
    "delete and insert": HeaderCase(
        # In Sendmail the deleted one still counts.
        [
            HeaderChanged("Date", 1, None),
            HeaderInserted(11, "X-B", "1"),
            HeaderInserted(3, "X-C", "2"),
        ],
        [TOP[0], ID, "X-C: 2", X1, R, X2, X3, "X-B: 1"],
        ["X-C: 2", TOP[0], ID, "X-B: 1", X1, R, X2, X3],
    ),
}


@pytest.mark.parametrize("case", HEADER_CASES.values(), ids=HEADER_CASES)
def test_headers_in_postfix(case: HeaderCase) -> None:
    assert lines(delivered(Mta.POSTFIX, *case.edits).content) == case.postfix


@pytest.mark.parametrize("case", HEADER_CASES.values(), ids=HEADER_CASES)
def test_headers_in_sendmail(case: HeaderCase) -> None:
    assert lines(delivered(Mta.SENDMAIL, *case.edits).content) == case.sendmail


@BOTH
def test_with_leading_space_a_value_stands_as_it_is(mta: Mta) -> None:
    edits = (
        HeaderAdded("X-B", "n"),
        HeaderAdded("X-C", ""),
        HeaderChanged("X-A", 1, "\tn"),
        HeaderInserted(0, "X-D", " n"),
    )
    content = delivered(mta, *edits, leading_space=True).content
    assert lines(content) == ["X-D: n", *TOP, ID, "X-A:\tn", R, X2, X3, "X-B:n", "X-C:"]


def test_sendmail_writes_no_header_of_its_own_without_even_a_blank() -> None:
    edits = (HeaderAdded("Date", ""), HeaderAdded("From", ""), HeaderChanged("From", 1, "n@b.c"))
    content = delivered(Mta.SENDMAIL, *edits, leading_space=True).content
    assert lines(content) == ["From:n@b.c", *TOP, ID, X1, R, X2, X3]


def test_sendmail_drops_a_client_s_empty_header_that_it_makes_itself() -> None:
    content = Content([("date", " "), ("Received", ""), ("X-A", "")])
    assert lines(delivered(Mta.SENDMAIL, content=content).content) == ["Received:", "X-A:"]
    assert lines(delivered(Mta.POSTFIX, content=content).content) == ["date: ", "Received:", "X-A:"]


def test_sendmail_takes_an_index_with_the_sign_bit_for_the_first() -> None:
    edit = HeaderChanged("X-A", 4294967295, "n")
    assert lines(delivered(Mta.SENDMAIL, edit).content) == [*TOP, ID, "X-A: n", R, X2, X3]
    assert lines(delivered(Mta.POSTFIX, edit).content) == [*TOP, ID, X1, R, X2, X3, "X-A: n"]


BODY_CASES = {
    "none": ([], b"body\r\n"),
    "an empty one": ([b""], b""),
    "lines that end in CRLF": ([b"a\r\n.\r\n"], b"a\r\n.\r\n"),
    "lines that end in LF": ([b"a\nb\n"], b"a\r\nb\r\n"),
    "a last line without end": ([b"a\r\nb"], b"a\r\nb\r\n"),
    "a CR in a line": ([b"a\rb\r\n"], b"a\rb\r\n"),
    "a CR at the end": ([b"a\r"], b"a\r\r\n"),
    "two CR at the end of a line": ([b"a\r\r\n"], b"a\r\r\n"),
    "a CR behind an LF": ([b"a\n\rb\r\n"], b"a\r\n\rb\r\n"),
    "empty lines": ([b"\r\n\n"], b"\r\n\r\n"),
    "any bytes": ([b"\0\xe9"], b"\0\xe9\r\n"),
    "what looks like a header": ([b"A: b\r\n"], b"A: b\r\n"),
    "two pieces": ([b"a", b"b\r\nc"], b"ab\r\nc\r\n"),
    "CRLF in two pieces": ([b"a\r", b"\nb"], b"a\r\nb\r\n"),
    "an empty piece": ([b"", b"a\r\n", b""], b"a\r\n"),
}


@BOTH
@pytest.mark.parametrize(("pieces", "body"), BODY_CASES.values(), ids=BODY_CASES)
def test_a_new_body(mta: Mta, pieces: list[bytes], body: bytes) -> None:
    delivery = delivered(mta, *map(BodyReplaced, pieces))
    assert delivery.content == Content(MESSAGE.headers, body)


class EnvelopeCase(NamedTuple):
    """The client's sender and recipients, edits, and the recipients or the sender delivered."""

    client: tuple[str, ...]
    edits: list[Edit]
    postfix: list[str]
    sendmail: list[str]


def same(client: tuple[str, ...], edits: list[Edit], paths: list[str]) -> EnvelopeCase:
    return EnvelopeCase(client, edits, paths, paths)


B, B_UPPER, C, N = "<b@dst.example>", "<B@dst.example>", "<c@dst.example>", "<n@dst.example>"
NEVER, SUCCESS, ORCPT = "NOTIFY=NEVER", "NOTIFY=SUCCESS", "ORCPT=rfc822;o@x.example"
RECIPIENT_CASES = {
    "none": same((B, C), [], [B, C]),
    "duplicates of the client": EnvelopeCase((B, B, B_UPPER), [], [B], [B, B_UPPER]),
    "duplicates of the client with parameters": EnvelopeCase(
        (f"{B} {SUCCESS}", f"{B} {NEVER}"),
        [],
        [f"{B} {SUCCESS}", f"{B} {NEVER}"],
        [f"{B} {SUCCESS}"],
    ),
    "add one": same((B,), [RecipientAdded(N)], [B, N]),
    "add one without brackets": same((B,), [RecipientAdded("n@dst.example")], [B, N]),
    "add one with a name": same((B,), [RecipientAdded("N. N. <n@dst.example>")], [B, N]),
    "add none": same((B,), [RecipientAdded("<>"), RecipientAdded("")], [B]),
    "add one twice": same((B,), [RecipientAdded(N), RecipientAdded(N)], [B, N]),
    "add one that is there": EnvelopeCase((B,), [RecipientAdded(B)], [B, B], [B]),
    "add one that is there in another case": same((B,), [RecipientAdded(B_UPPER)], [B, B_UPPER]),
    "add one in two cases": EnvelopeCase(
        (C,), [RecipientAdded(B), RecipientAdded(B_UPPER)], [C, B], [C, B, B_UPPER]
    ),
    "add one that is there, with its ORCPT": same(
        (B,),
        [RecipientAdded(B, "ORCPT=rfc822;b@dst.example")],
        [B],
    ),
    "add one with parameters": same(
        (B,), [RecipientAdded(N, f"{NEVER} {ORCPT}")], [B, f"{N} {NEVER} {ORCPT}"]
    ),
    "add one with and without parameters": EnvelopeCase(
        (B,),
        [RecipientAdded(N, NEVER), RecipientAdded(N), RecipientAdded(N, NEVER)],
        [B, f"{N} {NEVER}", N],
        [B, f"{N} {NEVER}"],
    ),
    "add one with empty parameters": same((B,), [RecipientAdded(N, "")], [B, N]),
    "add one with an unknown parameter": EnvelopeCase(
        (B,), [RecipientAdded(N, f"X=y {NEVER}")], [B, f"{N} {NEVER}"], [B]
    ),
    "add one with a bad parameter": EnvelopeCase(
        (B,), [RecipientAdded(N, "NOTIFY=NEVER,SUCCESS")], [B, N], [B]
    ),
    "delete one": same((B, C), [RecipientDeleted(B)], [C]),
    "delete one without brackets": same((B, C), [RecipientDeleted("b@dst.example ")], [C]),
    "delete one with parameters": same((f"{B} {NEVER}", C), [RecipientDeleted(B)], [C]),
    "delete one in another case": same((B, C), [RecipientDeleted(B_UPPER)], [B, C]),
    "delete one that is not there": same((B, C), [RecipientDeleted(N)], [B, C]),
    "delete duplicates": same((B, B, C), [RecipientDeleted(B)], [C]),
    "delete one that was added again": same((B, C), [RecipientAdded(B), RecipientDeleted(B)], [C]),
    "add and delete": same((B,), [RecipientAdded(N), RecipientDeleted(N)], [B]),
    "delete and add": EnvelopeCase(
        (f"{B} {ORCPT}", C), [RecipientDeleted(B), RecipientAdded(B)], [C, B], [f"{B} {ORCPT}", C]
    ),
    "add, delete and add": same(
        (B,), [RecipientAdded(N), RecipientDeleted(N), RecipientAdded(N)], [B, N]
    ),
    "add in one case, delete and add in another": same(
        (C,),
        [RecipientAdded(B_UPPER), RecipientDeleted(B), RecipientAdded(B)],
        [C, B_UPPER, B],
    ),
    "delete all": same((B, C), [RecipientDeleted(B), RecipientDeleted(C)], []),
}


def paths(texts: tuple[str, ...]) -> list[Path]:
    return [Path(*text.split()) for text in texts]


@pytest.mark.parametrize("case", RECIPIENT_CASES.values(), ids=RECIPIENT_CASES)
def test_recipients_in_postfix(case: EnvelopeCase) -> None:
    envelope = Envelope("<a@src.example>", paths(case.client))
    result = delivered(Mta.POSTFIX, *case.edits, envelope=envelope).envelope
    assert list(map(str, result.recipients)) == case.postfix
    assert result.sender == envelope.sender


@pytest.mark.parametrize("case", RECIPIENT_CASES.values(), ids=RECIPIENT_CASES)
def test_recipients_in_sendmail(case: EnvelopeCase) -> None:
    envelope = Envelope("<a@src.example>", paths(case.client))
    result = delivered(Mta.SENDMAIL, *case.edits, envelope=envelope).envelope
    assert list(map(str, result.recipients)) == case.sendmail
    assert result.sender == envelope.sender


OLD, NEW = "<a@src.example> RET=HDRS ENVID=old", "<n@src.example>"
SENDER_CASES = {
    "none": same((OLD,), [], [OLD]),
    "another": same((OLD,), [SenderChanged(NEW)], [f"{NEW} RET=HDRS ENVID=old"]),
    "without brackets": same((NEW,), [SenderChanged("o@src.example")], ["<o@src.example>"]),
    "with a name": same((OLD,), [SenderChanged(f"N {NEW}")], [f"{NEW} RET=HDRS ENVID=old"]),
    "the null sender": same((NEW,), [SenderChanged("<>")], ["<>"]),
    "an empty one": EnvelopeCase((NEW,), [SenderChanged("")], ["<>"], [NEW]),
    "twice": same((NEW,), [SenderChanged("<>"), SenderChanged("<o@s.example>")], ["<o@s.example>"]),
    "with empty parameters": EnvelopeCase(
        (OLD,), [SenderChanged(NEW, "")], [f"{NEW} RET=HDRS ENVID=old"], [NEW]
    ),
    "with one parameter": EnvelopeCase(
        (OLD,),
        [SenderChanged(NEW, "ret=full")],
        [f"{NEW} ret=full ENVID=old"],
        [f"{NEW} ret=full"],
    ),
    "with all parameters": same(
        (OLD,), [SenderChanged(NEW, "RET=FULL  ENVID=new")], [f"{NEW} RET=FULL ENVID=new"]
    ),
    "with an unknown parameter in front": EnvelopeCase(
        (NEW,), [SenderChanged(NEW, "X=y RET=HDRS")], [f"{NEW} RET=HDRS"], [NEW]
    ),
    "with an unknown parameter behind": same(
        (NEW,), [SenderChanged(NEW, "RET=HDRS X=y")], [f"{NEW} RET=HDRS"]
    ),
    "with a size": EnvelopeCase(
        (NEW,),
        [SenderChanged(NEW, "SIZE=77 ENVID=x")],
        [f"{NEW} ENVID=x"],
        [f"{NEW} SIZE=77 ENVID=x"],
    ),
    "with parameters, then without": EnvelopeCase(
        (OLD,),
        [SenderChanged("<m@src.example>", "RET=FULL"), SenderChanged(NEW)],
        [f"{NEW} RET=FULL ENVID=old"],
        [f"{NEW} RET=FULL"],
    ),
}


@pytest.mark.parametrize("case", SENDER_CASES.values(), ids=SENDER_CASES)
def test_the_sender_in_postfix(case: EnvelopeCase) -> None:
    envelope = Envelope(paths(case.client)[0], B)
    result = delivered(Mta.POSTFIX, *case.edits, envelope=envelope).envelope
    assert [str(result.sender)] == case.postfix
    assert result.recipients == envelope.recipients


@pytest.mark.parametrize("case", SENDER_CASES.values(), ids=SENDER_CASES)
def test_the_sender_in_sendmail(case: EnvelopeCase) -> None:
    envelope = Envelope(paths(case.client)[0], B)
    result = delivered(Mta.SENDMAIL, *case.edits, envelope=envelope).envelope
    assert [str(result.sender)] == case.sendmail
    assert result.recipients == envelope.recipients


@BOTH
def test_a_message_without_edits_is_delivered_as_it_is(mta: Mta) -> None:
    assert delivered(mta) == Delivery(ENVELOPE, MESSAGE, None)


@pytest.mark.parametrize(("mta", "reason"), [(Mta.POSTFIX, ""), (Mta.SENDMAIL, "two")])
def test_a_message_is_held(mta: Mta, reason: str) -> None:
    delivery = delivered(mta, Quarantined("one"), HeaderAdded("X-B", "n"), Quarantined("two"))
    assert delivery.quarantine == reason
    assert delivery.content.get("X-B") == "n"


@BOTH
def test_line_breaks_in_an_address_end_nothing(mta: Mta) -> None:
    delivery = delivered(mta, RecipientAdded("n@dst.example\r\nDATA"), SenderChanged("a\nb"))
    assert delivery.envelope.recipient_addresses[2:] == ("<n@dst.example DATA>",)
    assert delivery.envelope.sender.address == "<a b>"


NAMES = st.sampled_from(["X-A", "x-a", "X-B", "Received", "Date"])
VALUES = st.sampled_from(["", "n", " n", "n\n o", "n\no"])
INDICES = st.integers(0, 12) | st.sampled_from([99, 2**31 - 1, 2**31, 2**32 - 1])
ADDRESSES = st.sampled_from([B, B_UPPER, C, N, "n@dst.example", "", "<>"])
PARAMS = st.sampled_from([None, "", NEVER, "X=y", "RET=HDRS"])
ANY_EDIT: st.SearchStrategy[Edit] = st.one_of(
    st.builds(HeaderAdded, NAMES, VALUES),
    st.builds(HeaderInserted, INDICES, NAMES, VALUES),
    st.builds(HeaderChanged, NAMES, INDICES, VALUES | st.none()),
    st.builds(SenderChanged, ADDRESSES, PARAMS),
    st.builds(RecipientAdded, ADDRESSES, PARAMS),
    st.builds(RecipientDeleted, ADDRESSES),
    st.builds(BodyReplaced, st.binary(max_size=4)),
    st.builds(Quarantined, st.text(max_size=2)),
)


@BOTH
@given(edits=st.lists(ANY_EDIT), leading_space=st.booleans())
def test_what_is_delivered_is_a_message(mta: Mta, edits: list[Edit], leading_space: bool) -> None:
    """No edit can make a header of a value, or a line without its end."""
    content = delivered(mta, *edits, leading_space=leading_space).content
    parsed = Content.parse(content.as_bytes())
    assert len(parsed.headers) == len(content.headers)
    assert parsed.headers == content.headers
