"""Whole messages that are too much, that fail, or that end early; and what is let go of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aiomilter import (
    Message,
    RemoteProtocolError,
    SpoolError,
    Status,
)
from aiomilter.app.host import Abandoned, Cut
from tests.app.keeper import (
    ANSWERS,
    CURRENT,
    LETTER,
    MESSAGE,
    OLD,
    WAITING,
    Keeper,
    change_everything,
    descriptors,
    policy,
)
from tests.app.test_dispatch import Rig
from tests.mta import (
    ABORT,
    BODY,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    packet,
    split_packets,
)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


# Limits


async def end_of(rig: Rig, *sent: bytes) -> list[bytes]:
    """Say these commands, the end of the message, and all of another one; return the answers."""
    return (await rig.feed(*sent, EOM, *MESSAGE))[:-1]


LONG = packet(b"L", b"X-Long\0" + b"x" * 200 + b"\0")
MUCH = packet(b"B", b"x" * 200)
LIMITS: list[Any] = [
    pytest.param({"max_headers": 2}, [HEADER] * 3, "more than 2 headers", id="headers"),
    pytest.param(
        {"max_header_bytes": 100}, [HEADER, LONG], "more than 100 bytes of headers", id="bytes"
    ),
    pytest.param({"max_body_bytes": 100}, [BODY, MUCH], "more than 100 bytes of body", id="body"),
    pytest.param(
        {"max_body_bytes": 100, "spool_threshold": 3},
        [BODY, MUCH],
        "more than 100 bytes of body",
        id="body in a file",
    ),
]


@pytest.mark.parametrize(("limits", "packets", "says"), LIMITS)
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("offered", [CURRENT, WAITING, OLD], ids=["current", "waiting", "old"])
async def test_a_message_above_a_limit_gets_the_configured_verdict_and_the_next_is_served(
    limits: dict[str, int],
    packets: Sequence[bytes],
    says: str,
    answer: Status,
    offered: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(Keeper, policy(**limits, on_limit=answer))
    # What comes after it is of no interest any more.
    sent = [*packets, *packets]
    _, *replies = await rig.feed(offered, MAIL, RCPT, *sent)
    before = len(packets) - 1
    if offered is CURRENT:
        # The MTA does not listen before the end.
        assert replies == []
        assert await rig.feed(EOM) == [LETTER[answer]]
    elif answer is Status.CONTINUE:
        is_body = offered is WAITING and sent[-1] is MUCH
        # SKIP, if the MTA knows it: then it sends no more of the body.
        given_up = [b"s"] if is_body else [b"c"]
        assert replies[: 2 + before + 1] == [b"c"] * (2 + before) + given_up
        assert await rig.feed(EOM) == [b"c"]
    else:
        # At once; whatever else the MTA says of it is out of order.
        assert replies == [b"c"] * (2 + before) + [LETTER[answer]]
        await rig.feed(ABORT)
    assert rig.milter.seen == []
    assert rig.host.kept == 0
    lines = [line for line in caplog.messages if says in line]
    assert len(lines) == 1
    assert lines[0].endswith(
        f"on_message: {says}; the answer is {answer.name}"
        + (", so it passes unfiltered" if answer in (Status.ACCEPT, Status.CONTINUE) else "")
    )
    assert (await rig.feed(MAIL, RCPT, EOM))[-1] == b"c"
    assert len(rig.milter.seen) == 1


async def test_what_is_just_within_the_limits_is_gathered() -> None:
    rig = Rig(Keeper, policy(max_headers=2, max_header_bytes=24, max_body_bytes=7))
    _, *replies = await rig.feed(OFFER, MAIL, RCPT, HEADER, HEADER, BODY, EOM)
    assert replies == [b"c"]
    assert len(rig.milter.seen) == 1


async def test_after_headers_that_are_too_many_the_body_is_skipped_as_well() -> None:
    rig = Rig(Keeper, policy(max_headers=0, on_limit=Status.CONTINUE))
    _, *replies = await rig.feed(WAITING, MAIL, RCPT, HEADER, BODY, EOM)
    assert replies == [b"c", b"c", b"c", b"s", b"c"]


async def test_a_limit_in_the_piece_that_comes_with_the_end() -> None:
    for answer in ANSWERS:
        rig = Rig(Keeper, policy(max_body_bytes=3, on_limit=answer))
        _, *replies = await rig.feed(OFFER, MAIL, RCPT, packet(b"E", b"hello\r\n"))
        assert replies == [LETTER[answer]]
        assert rig.milter.seen == []


async def test_no_handler_of_a_message_that_was_given_up_is_called() -> None:
    calls: list[str] = []

    class Late(Keeper):
        async def on_unknown(self, command: str) -> None:
            calls.append(command)

        async def on_abort(self) -> None:
            calls.append("abort")

    rig = Rig(Late, policy(max_headers=0, on_limit=Status.CONTINUE))
    _, *replies = await rig.feed(OFFER, MAIL, RCPT, HEADER, UNKNOWN, BODY, ABORT)
    assert replies == [b"c"]
    assert calls == ["abort"]


# Faults


def broken_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("offered", [CURRENT, WAITING], ids=["current", "waiting"])
async def test_a53_a_body_that_cannot_be_kept_costs_one_verdict_and_one_record(
    answer: Status,
    offered: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken_spool(monkeypatch)
    rig = Rig(Keeper, policy(spool_threshold=3, on_error=answer))
    _, *replies = await rig.feed(offered, MAIL, RCPT, HEADER, BODY)
    if offered is CURRENT:
        assert replies == []
        assert await rig.feed(BODY, BODY, EOM) == [LETTER[answer]]
    elif answer is Status.CONTINUE:
        assert replies == [b"c", b"c", b"c", b"s"]
        assert await rig.feed(EOM) == [b"c"]
    else:
        assert replies == [b"c", b"c", b"c", LETTER[answer]]
        await rig.feed(ABORT)
    assert rig.milter.seen == []
    assert rig.host.kept == 0
    (line,) = [line for line in caplog.messages if "fault " in line]
    assert "No space left on device" in line
    monkeypatch.undo()
    assert (await rig.feed(*[MAIL, RCPT, BODY, EOM]))[-1] == b"c"
    assert len(rig.milter.seen) == 1


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_fault_in_on_message_costs_one_verdict_and_makes_no_edits(
    answer: Status, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Keeper):
        def decide(self, message: Message) -> None:
            change_everything(message)
            if len(self.seen) == 1:
                raise SystemExit(3)
            message.headers.remove("X-New")

    rig = Rig(Failing, policy(on_error=answer))
    _, first, *replies = await rig.feed(OFFER, *MESSAGE, *MESSAGE)
    assert first == LETTER[answer]
    assert b"".join(reply[:1] for reply in replies) == b"e+qbc"
    assert caplog.text.count("fault ") == 1
    assert ": SystemExit: 3; the answer is" in caplog.text


async def test_a_fault_in_begin_message_is_the_verdict_of_all_that_is_gathered() -> None:
    class Failing(Keeper):
        def begin_message(self) -> None:
            raise KeyError

    rig = Rig(Failing)
    _, *replies = await rig.feed(OFFER, *MESSAGE)
    assert replies == [b"t"]
    assert rig.milter.seen == []


async def test_a_fault_of_a_read_is_the_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    rig = Rig(Keeper, policy(spool_threshold=3))
    monkeypatch.setattr("os.pread", fail)
    _, *replies = await rig.feed(OFFER, *MESSAGE)
    assert replies == [b"t"]


@pytest.mark.parametrize("cut", [Cut.TIME_LIMIT, Cut.STOPPING, Cut.NO_THREAD, Cut.FROM_OUTSIDE])
async def test_a_piece_that_is_not_written_in_time_costs_one_verdict(cut: Cut) -> None:
    rig = Rig(Keeper, policy(spool_threshold=3))
    rig.host.cuts = [cut]
    _, *replies = await rig.feed(OFFER, *MESSAGE)
    assert replies == [b"t"]
    assert rig.milter.seen == []


async def test_on_message_that_is_cut_short_costs_one_verdict() -> None:
    rig = Rig(Keeper)
    rig.host.cuts = [Cut.TIME_LIMIT]
    _, *replies = await rig.feed(OFFER, *MESSAGE, *MESSAGE)
    assert replies == [b"t", b"c"]


@pytest.mark.parametrize("is_written", [False, True])
async def test_an_mta_that_is_gone_ends_the_message(is_written: bool) -> None:
    """While a piece is written, or while `on_message` runs."""
    rig = Rig(Keeper, policy(spool_threshold=3))
    rig.host.cuts = [None, Cut.CONNECTION_LOST] if is_written else [Cut.CONNECTION_LOST]
    _, *replies = await rig.feed(OFFER, *MESSAGE, *MESSAGE)
    assert replies == []
    assert rig.has_ended
    assert len(rig.milter.seen) == is_written


# What is let go


@pytest.mark.parametrize("threshold", [3, 1000], ids=["in a file", "in memory"])
@pytest.mark.parametrize(
    "last",
    [
        [EOM],
        [ABORT],
        [MAIL],
        [QUIT],
        [QUIT_NC],
        [HELO],
        [packet(b"?")],
        [packet(b"L")],
        [RCPT],
    ],
    ids=["end", "abort", "next", "quit", "quit_nc", "helo", "unknown", "broken", "out of order"],
)
async def test_however_a_message_ends_nothing_is_left_of_it(
    last: list[bytes], threshold: int
) -> None:
    rig = Rig(Keeper, policy(spool_threshold=threshold))
    before = descriptors()
    await rig.feed(OFFER, MAIL, RCPT, HEADER, EOH, BODY)
    assert descriptors() == before + (threshold == 3)
    with contextlib.suppress(RemoteProtocolError):
        await rig.feed(*last)
    await rig.feed()
    assert descriptors() == before
    assert rig.host.kept == 0
    rig.dispatcher.release()


async def test_a_message_is_of_no_use_when_its_handler_has_returned() -> None:
    for threshold in (3, 1000):
        rig = Rig(Keeper, policy(spool_threshold=threshold))
        await rig.feed(OFFER, *MESSAGE)
        (message,) = rig.milter.kept
        with pytest.raises(SpoolError, match="the message is over"):
            message.body.read()


async def test_a_handler_that_is_given_up_leaves_no_file() -> None:
    class Stuck(Keeper):
        async def on_message(self, message: Message) -> None:
            # What a host does when a cancelled handler goes on.
            rig.dispatcher.abandon()
            self.kept.append(message)
            raise Abandoned

    rig: Rig = Rig(Stuck, policy(spool_threshold=3))
    before = descriptors()
    rig.host.cuts = [None, Cut.ABANDONED]
    with pytest.raises(Abandoned):
        await rig.feed(OFFER, *MESSAGE)
    assert descriptors() == before
    assert split_packets(rig.session.data_to_send())[-1] == b"t"


async def test_a_connection_that_is_dropped_lets_go_of_its_message() -> None:
    rig = Rig(Keeper, policy(spool_threshold=3))
    before = descriptors()
    await rig.feed(OFFER, MAIL, RCPT, BODY)
    assert descriptors() == before + 1
    rig.dispatcher.release()
    assert descriptors() == before


# Memory


async def test_p22_a_body_goes_to_a_file_while_memory_is_tight() -> None:
    rig = Rig(Keeper)
    piece = packet(b"B", b"x" * 20_000)
    await rig.feed(OFFER, MAIL, RCPT, HEADER, piece)
    assert (rig.host.in_thread, rig.host.kept) == (0, 20_000 + 12 + 256)
    rig.host.memory_is_tight = True
    await rig.feed(piece)
    assert (rig.host.in_thread, rig.host.kept) == (1, 12 + 256)
    rig.host.memory_is_tight = False
    await rig.feed(piece)
    assert rig.host.in_thread == 2
    assert await rig.feed(EOM) == [b"c"]
    assert rig.milter.seen[0][3] == b"x" * 60_000
    assert rig.host.kept == 0


async def test_p22_small_messages_are_not_counted() -> None:
    rig = Rig(Keeper)
    rig.host.memory_is_tight = True
    await rig.feed(OFFER, *MESSAGE)
    assert (rig.host.in_thread, rig.host.most_kept) == (0, 0)


async def test_p22_very_many_headers_do_not_get_in_while_memory_is_tight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Whatever is configured for what authors and senders do wrong: this is neither.
    rig = Rig(Keeper, policy(on_error=Status.ACCEPT, on_limit=Status.REJECT))
    rig.host.memory_is_tight = True
    _, *replies = await rig.feed(OFFER, MAIL, RCPT, *[HEADER] * 200, EOM)
    assert replies == [b"c"]
    assert 16_384 < rig.host.most_kept < 65_536
    assert await rig.feed(MAIL, RCPT, *[HEADER] * 400, EOM) == [b"t"]
    assert len(rig.milter.seen) == 1
    assert rig.host.kept == 0
    assert "memory is tight (Config.memory_budget)" in caplog.text
