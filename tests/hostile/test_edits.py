"""Edits and replies that must not leave, A39 to A45: refused before a byte is sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter import (
    ActionNotNegotiated,
    EomActions,
    LocalProtocolError,
    Milter,
    Reply,
    Status,
)
from aiomilter.app.line_endings import LineEndings
from tests.aio.serving import Recorder, errors, recorder, serving, session
from tests.hostile.support import RecordProperty, measured_memory
from tests.mta import ABORT, EOM, MAIL, MESSAGE, RCPT, Mta, split_packets

ALL = 0x1FF


async def nothing() -> None:
    """Be there in place of what tells of progress."""


def eom_actions(agreed: int = ALL) -> EomActions:
    """Return the edits of a message, for a test without a connection."""
    return EomActions(agreed, nothing)


Edit = Callable[[EomActions], object]


def refused(edit: Edit) -> str:
    """Assert that an edit is refused and leaves nothing; return what the error says."""
    actions = eom_actions()
    with pytest.raises(ValueError, match=r"\w") as caught:
        edit(actions)
    assert actions.close() == b""
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 300
    return text


WITH_VALUE: dict[str, Callable[[EomActions, str], object]] = {
    "add_header": lambda actions, value: actions.add_header("X-A", value),
    "insert_header": lambda actions, value: actions.insert_header(1, "X-A", value),
    "change_header": lambda actions, value: actions.change_header("X-A", 1, value),
}
WITH_LINE: dict[str, Callable[[EomActions, str], object]] = {
    "change_sender": lambda actions, value: actions.change_sender(value),
    "add_recipient": lambda actions, value: actions.add_recipient(value),
    "delete_recipient": lambda actions, value: actions.delete_recipient(value),
    "quarantine": lambda actions, value: actions.quarantine(value),
    "sender's parameter": lambda actions, value: actions.change_sender("<a@b>", value),
    "recipient's parameter": lambda actions, value: actions.add_recipient("<a@b>", [value]),
}
values = pytest.mark.parametrize("edit", WITH_VALUE.values(), ids=WITH_VALUE)
lines = pytest.mark.parametrize("edit", WITH_LINE.values(), ids=WITH_LINE)


@values
@pytest.mark.parametrize("value", ["v\r\nBcc: x@y", "v\nY: z", "v\rBcc: x@y", "v\n\nbody"])
def test_a39_a_value_that_would_be_another_header_is_refused(
    edit: Callable[[EomActions, str], object], value: str
) -> None:
    assert "begin another header" in refused(lambda actions: edit(actions, value))


@lines
@pytest.mark.parametrize("value", ["<a@b>\r\nRCPT TO:<c@d>", "<a@b>\n", "<a@b>\0", "<a\rb>"])
def test_a39_an_address_or_reason_of_several_lines_is_refused(
    edit: Callable[[EomActions, str], object], value: str
) -> None:
    assert "has no CR, LF or NUL" in refused(lambda actions: edit(actions, value))


@values
@pytest.mark.parametrize(
    ("value", "rule"), [("v\n", "LF or CRLF"), ("v\r", "LF or CRLF"), ("a\0b", "no NUL")]
)
def test_a40_a_value_with_a_line_break_at_its_end_or_nul_is_refused(
    edit: Callable[[EomActions, str], object], value: str, rule: str
) -> None:
    assert rule in refused(lambda actions: edit(actions, value))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("X-A\n", "printable ASCII"),
        ("X A", "without colon and blank"),
        ("X:", "without colon and blank"),
        ("", "not empty"),
        ("X-\xe9", "printable ASCII"),
        ("X-\udce9", "printable ASCII"),
        ("X-\0", "printable ASCII"),
        ("X" * 1_000, "at most 996 bytes"),
    ],
)
def test_a40_a_name_that_no_header_can_have_is_refused(name: str, rule: str) -> None:
    for edit in (
        lambda actions: actions.add_header(name, "v"),
        lambda actions: actions.insert_header(0, name, "v"),
        lambda actions: actions.change_header(name, 1, None),
    ):
        assert rule in refused(edit)


@pytest.mark.parametrize(
    ("value", "sent"),
    [("a;\n\tb", b"a;\n\tb"), ("a;\r\n b", b"a;\n b"), ("a\n b\r\n\tc", b"a\n b\n\tc")],
)
def test_a41_a_folded_value_leaves_with_lf_and_a_blank(value: str, sent: bytes) -> None:
    edits: list[tuple[Edit, bytes]] = [
        (lambda actions: actions.add_header("X-A", value), b"hX-A\0"),
        (lambda actions: actions.insert_header(1, "X-A", value), b"i\0\0\0\1X-A\0"),
        (lambda actions: actions.change_header("X-A", 1, value), b"m\0\0\0\1X-A\0"),
    ]
    for edit, ahead in edits:
        actions = eom_actions()
        edit(actions)
        assert split_packets(actions.close()) == [ahead + sent + b"\0"]


@pytest.mark.parametrize(
    "arguments",
    [
        (250,),
        (399,),
        (600,),
        ("45",),
        ("450\n",),
        ("\uff14\uff15\uff10",),
        (550, "4.7.1"),
        (450, "5.7.1"),
        (550, "5.7.1\n"),
        (550, "\uff15.7.1"),
        (550, "5.7.1", "a\r"),
        (550, "5.7.1", "a\nb"),
        (550, "5.7.1", "a\0"),
        (550, "5.7.1", *["line"] * 33),
        (550, "5.7.1", "x" * 981),
    ],
)
def test_a42_a_reply_that_is_none_cannot_be_made(arguments: tuple[Any, ...]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        Reply(*arguments)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("reply", "packet"),
    [
        (Reply(550, "5.7.1", "a", "b"), b"y550-5.7.1 a\r\n550 5.7.1 b\0"),
        (Reply(451, None, "100% full"), b"y451 100%% full\0"),
        (Reply(550, "5.7.1", "x" * 980), b"y550 5.7.1 " + b"x" * 980 + b"\0"),
    ],
)
async def test_a42_a_reply_has_these_bytes(reply: Reply, packet: bytes) -> None:
    class Refusing(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Reply:
            return reply

    async with session(Refusing) as mta:
        assert await mta.ask(RCPT) == packet
        mta.send(ABORT)


async def body_sent(*pieces: bytes, line_endings: LineEndings = "checked") -> list[bytes]:
    """Return the packets of a message whose body is replaced, up to its verdict."""

    class Replacing(Milter):
        async def on_eom(self, actions: EomActions) -> Status:
            actions.add_header("A", "b")
            for piece in pieces:
                actions.replace_body(piece, line_endings=line_endings)
                actions.add_header("A", "b")
            return Status.ACCEPT

    async with session(Replacing) as mta:
        mta.send(EOM)
        replies = [await mta.reply()]
        while replies[-1] not in (b"a", b"t"):
            replies.append(await mta.reply())
    return replies


@pytest.mark.parametrize("body", [b"bare\nLF", b".\r\n..\r\n.\r\n", b"\0\xff", b"\r\n", b"x\n"])
async def test_a43_a_body_without_bare_cr_is_sent_as_it_is(body: bytes) -> None:
    assert await body_sent(body) == [b"hA\0b\0", b"b" + body, b"hA\0b\0", b"a"]


@pytest.mark.parametrize(
    ("pieces", "place"),
    [
        ([b"bare\rCR"], "there is one at index 4"),
        ([b"x\r\n.\r\r\ny"], "there is one at index 4"),
        ([b"x\r", b"y"], "the piece before ends in one"),
        ([b"x\r", b"", b"\r\n"], "the piece before ends in one"),
        ([b"x\r\n.\r"], "it ends in one"),
        ([b"\r", b""], "it ends in one"),
    ],
)
async def test_a43_a_body_with_a_bare_cr_leaves_a_tempfail_alone(
    pieces: list[bytes], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await body_sent(*pieces) == [b"t"]
    (record,) = errors(caplog)
    assert " in on_eom of " in record
    assert f"a new body has no CR without LF behind it: {place}" in record
    assert record.endswith("the answer is TEMPFAIL")


async def test_a43_a_refusal_stands_though_the_body_with_it_is_broken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bodies = iter((b"x\r", b"x\r\n"))

    class Refusing(Milter):
        async def on_eom(self, actions: EomActions) -> Status:
            actions.replace_body(next(bodies))
            return Status.REJECT

    async with session(Refusing, on_error="accept") as mta:
        mta.send(EOM)
        assert await mta.reply() == b"r"
        (record,) = errors(caplog)
        assert record.endswith("the answer is REJECT")
        mta.send(MAIL, EOM)
        assert (await mta.replies(3))[-2:] == [b"bx\r\n", b"r"]


async def test_a43_line_ends_are_made_canonical_if_that_is_asked_for() -> None:
    pieces = (b"a\rb\nc\r", b"\nd\r", b"", b"\n.\r", b"\r.\n\r")
    replies = await body_sent(*pieces, line_endings="canonical")
    assert replies[-1] == b"a"
    body = b"".join(reply[1:] for reply in replies if reply[:1] == b"b")
    assert body == b"a\r\nb\r\nc\r\nd\r\n.\r\n\r\n.\r\n\r\n"


@pytest.mark.parametrize("body", [b"bare\rCR", b"bare\nLF", b"x\r"])
async def test_a43_a_raw_body_is_sent_as_it_is_like_libmilters(body: bytes) -> None:
    replies = await body_sent(body, b"", line_endings="raw")
    assert replies == [b"hA\0b\0", b"b" + body, b"b", b"hA\0b\0", b"hA\0b\0", b"a"]


async def test_a43_an_empty_body_is_one_empty_packet() -> None:
    assert await body_sent(b"") == [b"hA\0b\0", b"b", b"hA\0b\0", b"a"]


async def test_a43_no_other_edit_stands_between_two_pieces() -> None:
    replies = await body_sent(b"x" * 70_000, b"y")
    assert b"".join(reply[:1] for reply in replies) == b"hbbbhha"


async def test_a43_a_body_of_64_mib_reaches_a_slow_reader(
    record_property: RecordProperty,
) -> None:
    size = 64 * 2**20

    class Replacing(Milter):
        async def on_eom(self, actions: EomActions) -> Status:
            for _ in range(64):
                actions.replace_body(b"x" * 2**20)
            return Status.ACCEPT

    with measured_memory() as measure:
        async with session(Replacing) as mta:
            memory = measure()
            got = 0
            mta.send(EOM)
            while (reply := await mta.reply()) != b"a":
                assert reply[:1] == b"b"
                got += len(reply) - 1
                if got % (8 * 2**20) < 70_000:
                    await asyncio.sleep(0.005)
            peak, growth = memory.peak(), memory.growth()
    assert got == size
    # All edits of a message are held until its verdict; what is held is a small multiple of them.
    assert peak < 4 * size
    assert growth < 2**20
    record_property(
        "summary",
        f"A43, a new body of 64 MiB: memory {peak / 2**20:+.0f} MiB at most, "
        f"{growth / 1024:+.0f} KiB afterwards",
    )


def test_a44_an_edit_that_was_not_agreed_leaves_nothing() -> None:
    edits: list[Edit] = [
        lambda actions: actions.add_header("X-A", "b"),
        lambda actions: actions.insert_header(1, "X-A", "b"),
        lambda actions: actions.change_header("X-A", 1, "b"),
        lambda actions: actions.change_sender("<a@b>"),
        lambda actions: actions.add_recipient("<a@b>"),
        lambda actions: actions.add_recipient("<a@b>", "NOTIFY=NEVER"),
        lambda actions: actions.delete_recipient("<a@b>"),
        lambda actions: actions.replace_body(b"x"),
        lambda actions: actions.quarantine("why"),
    ]
    for edit in edits:
        actions = eom_actions(agreed=0)
        with pytest.raises(ActionNotNegotiated):
            edit(actions)
        assert actions.close() == b""
        late = eom_actions()
        late.close()
        with pytest.raises(LocalProtocolError, match="comes too late"):
            edit(late)
        assert late.close() == b""


@pytest.mark.parametrize("when", ["rcpt", "close", "mail of the next"])
async def test_a44_an_edit_behind_the_verdict_leaves_nothing(when: str) -> None:
    class Late(Recorder):
        async def on_eom(self, actions: EomActions) -> Status:
            self.edits = actions
            return Status.ACCEPT

        async def act(self, stage: str) -> Any:
            if hasattr(self, "edits") and stage in when:
                with pytest.raises(LocalProtocolError, match="comes too late"):
                    self.edits.add_header("X-Late", "b")
                self.journal.note("refused")

    milter = recorder(Late)
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        mta.send(*MESSAGE, MAIL, RCPT, b"\0\0\0\1Q")
        assert await mta.rest() == b"\0\0\0\1c" * 6 + b"\0\0\0\1a" + b"\0\0\0\1c" * 2
    await milter.journal.until("close")
    assert "refused" in milter.journal.entries


async def test_a45_five_edits_and_then_a_fault_leave_a_tempfail_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Recorder):
        async def on_eom(self, actions: EomActions) -> Status:
            for number in range(5):
                actions.add_header("X-Number", str(number))
            if self.messages == 1:
                raise ValueError("half-way")
            return Status.ACCEPT

    async with session(recorder(Failing)) as mta:
        mta.send(*MESSAGE)
        assert await mta.replies(7) == [b"c"] * 6 + [b"t"]
        mta.send(ABORT, *MESSAGE)
        replies = await mta.replies(12)
        assert replies[6:] == [b"hX-Number\0%d\0" % number for number in range(5)] + [b"a"]
    assert len(errors(caplog)) == 1


SAFE_HEADER = re.compile(rb"[!-9;-~]{1,996}\0(?:[^\r\n\0]|\n[ \t])*\0", re.DOTALL)
SAFE_REPLY = re.compile(
    rb"([45]\d\d)-[^\r\n\0]*(?:\r\n\1[- ][^\r\n\0]*)*\r\n\1 [^\r\n\0]*|[45]\d\d [^\r\n\0]*"
)
texts = st.text(st.sampled_from("aZ0 :.%\t\r\n\0\x1b\x7f\xe9\uff15\udc80\u2028<>@"), max_size=12)


@given(name=st.sampled_from(["X-A", "Subject"]) | texts, value=texts, index=st.integers(-1, 3))
def test_p11_whatever_is_passed_no_header_breaks_out(name: str, value: str, index: int) -> None:
    edits: list[tuple[Edit, int]] = [
        (lambda actions: actions.add_header(name, value), 1),
        (lambda actions: actions.insert_header(index, name, value), 5),
        (lambda actions: actions.change_header(name, index, value), 5),
    ]
    for edit, ahead in edits:
        actions = eom_actions()
        try:
            edit(actions)
        except ValueError:
            assert actions.close() == b""
        else:
            (packet,) = split_packets(actions.close())
            assert SAFE_HEADER.fullmatch(packet[ahead:])


@given(value=texts)
def test_p11_whatever_is_passed_no_address_or_reason_breaks_out(value: str) -> None:
    for edit in WITH_LINE.values():
        actions = eom_actions()
        try:
            edit(actions, value)
        except ValueError:
            assert actions.close() == b""
        else:
            (packet,) = split_packets(actions.close())
            assert not re.search(rb"[\r\n]", packet)
            assert packet.count(b"\0") <= 2


@given(
    code=st.integers(390, 610) | st.sampled_from([0, 45, 4500, -450]),
    enhanced=st.none() | st.from_regex(r"[245]\.\d{1,4}\.\d{1,3}\n?", fullmatch=True) | texts,
    lines=st.lists(texts, max_size=4),
)
def test_p10_p11_whatever_is_passed_a_reply_is_one_that_mtas_take(
    code: int, enhanced: str | None, lines: list[str]
) -> None:
    try:
        text = Reply(code, enhanced, *lines).encode()
    except ValueError:
        return
    # What Postfix and Sendmail look at: three digits, the same on each line, "-" on all but the
    # last one; and a percent sign is the first of two.
    assert SAFE_REPLY.fullmatch(text)
    assert text.replace(b"%%", b"").count(b"%") == 0
    assert int(text[:3]) == code
