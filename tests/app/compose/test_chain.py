"""Several milters as one: who is asked, whose verdict counts, and what the others hear of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from aiomilter import (
    Actions,
    Config,
    ConfigError,
    EomActions,
    Message,
    MessageNeeds,
    Milter,
    Negotiation,
    Options,
    Reply,
    Server,
    SocketInfo,
    Status,
    Verdict,
    chain,
    leading_space,
    macros,
    no_reply,
    rejected_recipients,
    time_limit,
)
from aiomilter.app.compose.relay import Relay
from aiomilter.app.compose.tables import merge_macros
from aiomilter.mta import HeaderAdded, Mta, Offer, Quarantined
from aiomilter.spec import MacroStage
from aiomilter.testing import AsyncMilterTester, HandlerFault, MilterTester

C, A, D, T, R = (
    Status.CONTINUE,
    Status.ACCEPT,
    Status.DISCARD,
    Status.TEMPFAIL,
    Status.REJECT,
)


def scripted(name: str, calls: list[str], **verdicts: Verdict) -> Callable[[], Milter]:
    """Return a milter that says what it is told to, and notes what it is asked."""

    class Scripted(Milter):
        def begin_message(self) -> None:
            calls.append(f"{name}.begin")

        async def on_abort(self) -> None:
            calls.append(f"{name}.abort")

        async def on_close(self) -> None:
            calls.append(f"{name}.close")

    def handler(stage: str) -> Any:
        async def answer(self: Milter, *arguments: object) -> Verdict:
            del self, arguments
            calls.append(f"{name}.{stage}")
            return verdicts[stage]

        return answer

    for stage in verdicts:
        setattr(Scripted, f"on_{stage}", handler(stage))
    return Scripted


class Silent(Milter):
    """Has no handler at all."""


# Verdicts


@pytest.mark.parametrize("stage", ["mail", "data"])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (C, C, C),
        (C, A, C),
        (A, A, A),
        (A, D, D),
        (D, T, T),
        (T, D, T),
        (T, R, R),
        (D, R, R),
        (C, D, D),
        (Reply(451, "4.7.1", "one"), Reply(452, "4.7.1", "two"), T),
    ],
)
def test_the_strictest_verdict_counts(
    stage: str, first: Verdict, second: Verdict, expected: Status
) -> None:
    calls: list[str] = []
    one = scripted("a", calls, **{stage: first})
    two = scripted("b", calls, **{stage: second})
    with MilterTester(chain(one, two)) as tester:
        result = tester.mail() if stage == "mail" else tester.data()
    assert result.status is expected
    assert f"b.{stage}" in calls
    if isinstance(first, Reply):
        assert str(result.reply) == "451 4.7.1 one"


def test_after_a_reject_nobody_else_is_asked() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, mail=R), scripted("b", calls, mail=C)]
    with MilterTester(chain(*milters)) as tester:
        tester.mail().assert_rejected()
        # One that was not asked hears that the message it has begun is over; the other knows.
        assert calls == ["a.begin", "b.begin", "a.mail", "b.abort"]
    assert calls[4:] == ["a.close", "b.close"]


def test_one_that_accepts_is_done_and_the_others_go_on() -> None:
    calls: list[str] = []
    first = scripted("a", calls, mail=A, rcpt=R, eom=R)
    second = scripted("b", calls, rcpt=C, eom=R)
    with MilterTester(chain(first, second)) as tester:
        tester.send().assert_rejected()
        tester.mail()
    assert calls[2:5] == ["a.mail", "b.rcpt", "b.eom"]
    assert "a.abort" not in calls


def test_when_all_have_accepted_so_does_the_chain() -> None:
    calls: list[str] = []
    milters = [
        scripted("a", calls, mail=A, eom=R),
        scripted("b", calls, rcpt=A, eom=R),
        scripted("c", calls, connect=C),
    ]
    with MilterTester(chain(*milters, Silent)) as tester:
        tester.mail().assert_continued()
        tester.rcpt().assert_accepted()
        tester.new_session()
    assert not any("abort" in call for call in calls)


def test_accepting_a_session_is_for_this_milter_alone() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, connect=A, mail=R), scripted("b", calls, helo=C, mail=C)]
    with MilterTester(chain(*milters)) as tester:
        tester.connect().assert_continued()
        tester.mail().assert_continued()
        tester.abort()
        tester.mail().assert_continued()
    assert "a.mail" not in calls
    assert "a.begin" not in calls
    assert calls.count("b.mail") == 2
    assert calls[-2:] == ["a.close", "b.close"]


def test_accepting_a_session_by_all_is_told() -> None:
    calls: list[str] = []
    with MilterTester(
        chain(scripted("a", calls, connect=A), scripted("b", calls, connect=A))
    ) as tester:
        tester.connect().assert_accepted()


@pytest.mark.parametrize("mta", list(Mta))
def test_discard_ahead_of_a_message_takes_no_filter_away(
    mta: Mta, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, connect=D), scripted("b", calls, eom=R)]
    with MilterTester(chain(*milters), mta=mta) as tester:
        tester.send().assert_rejected()
    assert "on_connect of" in caplog.text
    assert "which is dropped: there is no message" in caplog.text


def test_an_unknown_command_outside_of_a_message_accepts_nothing() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, unknown=A, mail=R), scripted("b", calls, unknown=D, mail=C)]
    with MilterTester(chain(*milters)) as tester:
        tester.unknown("FOO").assert_continued()
        tester.mail().assert_rejected()


def test_an_unknown_command_may_be_refused() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, mail=C, unknown=C), scripted("b", calls, unknown=R)]
    with MilterTester(chain(*milters)) as tester:
        tester.mail()
        tester.unknown("FOO").assert_rejected()
        tester.end_of_message().assert_accepted()
    assert not any("abort" in call for call in calls)


# Recipients


class Recipients(Milter):
    """Notes whom it knows of."""

    refused = "<none>"

    def begin_message(self) -> None:
        self.asked: list[str] = []

    async def on_rcpt(self, recipient: str, params: list[str]) -> Verdict:
        self.asked.append(recipient)
        return R if recipient == self.refused else None

    async def on_message(self, message: Message) -> None:
        assert [one.address for one in message.recipients] == list(self.recipients)
        message.headers.add("X-To", ",".join(self.recipients))


class RefusesA(Recipients):
    refused = "<a@x.example>"


class RefusesB(Recipients):
    refused = "<b@x.example>"


def test_a_refused_recipient_is_refused_for_all() -> None:
    with MilterTester(chain(RefusesA, RefusesB)) as tester:
        result = tester.send(recipients=["a@x.example", "b@x.example", "c@x.example"])
        assert result.refused_recipients == ("<a@x.example>", "<b@x.example>")
        assert result.message.get_all("X-To") == ["<c@x.example>"] * 2
        relay = tester.milters[0]
        assert isinstance(relay, Relay)
        first, second = relay.milters
        assert isinstance(first, RefusesA)
        assert isinstance(second, RefusesB)
        assert first.asked == ["<a@x.example>", "<b@x.example>", "<c@x.example>"]
        # After a REJECT nobody else is asked.
        assert second.asked == ["<b@x.example>", "<c@x.example>"]
        # Nothing of it is left in the next message.
        assert tester.send(recipients=["c@x.example"]).message.get("X-To") == "<c@x.example>"


@pytest.mark.parametrize("refusal", [T, R])
def test_a_discard_beside_a_refused_recipient_is_not_lost(refusal: Status) -> None:
    calls: list[str] = []
    milters = [
        scripted("a", calls, rcpt=D, eom=C),
        scripted("b", calls, rcpt=refusal, eom=C),
    ]
    with MilterTester(chain(*milters)) as tester:
        tester.mail()
        assert tester.rcpt("a@x.example").status is refusal
        tester.rcpt("b@x.example").assert_discarded()
        tester.abort()
        tester.mail().assert_continued()
    assert calls.count("b.abort") == 2
    assert "a.eom" not in calls


class WantsRejected(Milter):
    asked: list[str]

    def begin_message(self) -> None:
        self.asked = []

    @rejected_recipients
    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.asked.append(recipient)


def test_recipients_that_the_mta_refuses_are_for_those_who_want_them() -> None:
    with MilterTester(chain(WantsRejected, RefusesA), macros={"{rcpt_mailer}": "error"}) as tester:
        tester.rcpt("a@x.example").assert_continued()
        relay = tester.milters[0]
        assert isinstance(relay, Relay)
        wants, other = relay.milters
        assert isinstance(wants, WantsRejected)
        assert isinstance(other, RefusesA)
        assert (wants.asked, other.asked) == (["<a@x.example>"], [])


# The end of a message


class Adds(Milter):
    def __init__(self, name: str = "X-Whole") -> None:
        self.name = name

    async def on_message(self, message: Message) -> None:
        message.headers.add(self.name, str(len(message.headers)))
        message.quarantine(self.name)


class Plays(Milter):
    def begin_message(self) -> None:
        self.seen: list[object] = []

    async def on_header(self, name: str, value: str) -> None:
        self.seen.append((name, value))

    async def on_eoh(self) -> None:
        self.seen.append("eoh")

    def on_body(self, chunk: bytes) -> None:
        self.seen.append(chunk)

    async def on_eom(self, actions: EomActions) -> Status:
        await actions.progress()
        actions.add_header("X-Played", str(len(self.seen)))
        actions.quarantine("played")
        return A


def test_each_sees_what_those_before_have_made() -> None:
    with MilterTester(chain(Adds, Plays, partial(Adds, "X-Last"), Plays)) as tester:
        result = tester.send("Subject: s\n\nbody\n")
        relay = tester.milters[0]
        assert isinstance(relay, Relay)
        *_, second = relay.milters
    assert isinstance(second, Plays)
    expected = [("Subject", "s"), ("X-Whole", "1"), ("X-Played", "4"), ("X-Last", "3")]
    assert second.seen == [*expected, "eoh", b"body\r\n"]
    names = [name for name, _ in result.message.headers]
    assert names == ["Subject", "X-Whole", "X-Played", "X-Last", "X-Played"]
    assert result.quarantine == "X-Whole; played; X-Last"


@pytest.mark.parametrize("verdict", [R, T, D])
def test_the_first_that_keeps_a_message_back_ends_it(verdict: Status) -> None:
    calls: list[str] = []
    last = scripted("c", calls, message=R)
    with MilterTester(chain(Adds, scripted("b", calls, message=verdict), last)) as tester:
        result = tester.send()
        assert (result.status, result.edits) == (verdict, ())
    assert calls == ["b.begin", "c.begin", "b.message", "c.abort", "b.close", "c.close"]


@pytest.mark.parametrize("stage", ["header", "eoh", "body", "eom"])
@pytest.mark.parametrize("verdict", [R, T, D, A])
def test_a_verdict_on_a_piece_is_one_on_the_message(stage: str, verdict: Status) -> None:
    calls: list[str] = []
    stages = ["header", "eoh", "body", "eom"]
    verdicts: dict[str, Verdict] = {**dict.fromkeys(stages, C), stage: verdict}
    with MilterTester(chain(scripted("a", calls, **verdicts), Adds)) as tester:
        result = tester.send("Subject: s\n\nbody\n")
    assert result.status is verdict if verdict is not A else result.is_accepted
    assert bool(result.edits) is (verdict is A)
    expected = [f"a.{one}" for one in stages[: stages.index(stage) + 1]]
    assert calls[1:-1] == expected


def test_skip_ends_the_pieces_of_its_kind() -> None:
    calls: list[str] = []
    skips = scripted("a", calls, header=Status.SKIP, body=Status.SKIP, eom=C)
    body = b"x" * 70_000
    with MilterTester(chain(skips)) as tester:
        tester.send(b"A: 1\r\nB: 2\r\n\r\n" + body).assert_accepted()
    assert calls == ["a.begin", "a.header", "a.body", "a.eom", "a.close"]


def test_skip_of_recipients_is_for_this_milter_and_this_message() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, rcpt=Status.SKIP), scripted("b", calls, rcpt=C)]
    with MilterTester(chain(*milters)) as tester:
        for _ in range(2):
            tester.send(recipients=["a@x.example", "b@x.example"]).assert_accepted()
    assert calls.count("a.rcpt") == 2
    assert calls.count("b.rcpt") == 4


class Spaced(Milter):
    @leading_space
    async def on_header(self, name: str, value: str) -> None:
        assert value == " s"

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Spaced", "\tvalue")


def test_the_blank_behind_the_colon_is_a_matter_of_each() -> None:
    with MilterTester(chain(Spaced, Plays)) as tester:
        headers = tester.send("Subject: s\n\n").message.headers
    assert headers[1:] == (("X-Spaced", "\tvalue"), ("X-Played", " 3"))


class Replaces(Milter):
    async def on_eom(self, actions: EomActions) -> None:
        for _ in range(3):
            actions.replace_body(b"0123456789abcde\n" * 40_000)


class Counts(Milter):
    async def on_message(self, message: Message) -> None:
        assert message.body.is_spooled
        assert b"".join(message.iter_bytes()).endswith(b"small\r\n")
        message.headers.add("X-Size", str(len(message.body)))


def test_a_large_new_body_goes_through_files() -> None:
    with MilterTester(chain(Replaces, Counts, Plays)) as tester:
        result = tester.send("Subject: s\n\nsmall\n")
    assert result.message.get("X-Size") == str(17 * 120_000)
    assert len(result.message.body) == 17 * 120_000


def test_a_message_that_nobody_wants_to_see_just_passes() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, mail=C), scripted("b", calls, rcpt=C)]
    with MilterTester(chain(*milters)) as tester:
        assert tester.send().edits == ()
        tester.send()
    assert not any("abort" in call for call in calls)


def test_an_aborted_message_is_told_to_those_who_have_not_decided() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, mail=A), scripted("b", calls, mail=C)]
    with MilterTester(chain(*milters)) as tester:
        tester.mail()
        tester.abort()
        tester.mail()
        tester.disconnect()
    assert calls.count("b.abort") == 2
    assert "a.abort" not in calls
    assert calls[-2:] == ["a.close", "b.close"]


def test_a_message_beyond_the_limits_is_over_for_all() -> None:
    calls: list[str] = []
    config = Config(max_message_headers=1)
    milters = [scripted("a", calls, mail=C), scripted("b", calls, message=C)]
    with MilterTester(chain(*milters), config=config) as tester:
        tester.send("A: 1\nB: 2\n\n").assert_tempfailed()
        assert calls[-2:] == ["a.abort", "b.abort"]


# Faults


class Fails(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.add("X-Half", "1")
        message.body.replace(b"half")
        message.recipients.clear()
        raise RuntimeError("half-way")


def test_a_fault_ends_the_message_and_takes_all_edits_back() -> None:
    calls: list[str] = []
    with MilterTester(
        chain(Adds, Fails, scripted("c", calls, message=C)), raise_faults=False
    ) as tester:
        result = tester.send()
        result.assert_tempfailed()
        assert result.edits == ()
        assert calls == ["c.begin", "c.abort"]
        (fault,) = tester.faults
    assert "on_message of Fails: RuntimeError: half-way" in str(fault)


@pytest.mark.parametrize("on_error", ["continue", "accept"])
def test_a_fault_that_lets_pass_does_so_for_this_milter_alone(on_error: Any) -> None:
    config = Config(on_error=on_error)
    with MilterTester(chain(Fails, Adds), config=config, raise_faults=False) as tester:
        result = tester.send("Subject: s\n\n")
        assert result.edits == (HeaderAdded("X-Whole", " 1"), Quarantined("X-Whole"))
        _ = tester.faults
    calls: list[str] = []
    with MilterTester(
        chain(Fails, scripted("b", calls, message=R)), config=config, raise_faults=False
    ) as tester:
        tester.send().assert_rejected()
        _ = tester.faults


class FailsEarly(Milter):
    def begin_message(self) -> None:
        raise RuntimeError("at once")

    async def on_mail(self, sender: str, params: list[str]) -> None:
        raise AssertionError("it was told that its message has failed")


@pytest.mark.parametrize("on_error", ["tempfail", "reject"])
def test_a_fault_at_the_beginning_ends_the_message(on_error: Any) -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, mail=C), FailsEarly, scripted("c", calls, mail=C)]
    with MilterTester(
        chain(*milters), config=Config(on_error=on_error), raise_faults=False
    ) as tester:
        assert tester.mail().status is Status[on_error.upper()]
        assert calls == ["a.begin", "a.abort"]
        _ = tester.faults


def test_a_fault_at_the_beginning_that_lets_pass_does_so_for_this_milter_alone() -> None:
    calls: list[str] = []
    with MilterTester(
        chain(FailsEarly, scripted("b", calls, mail=R)),
        config=Config(on_error="continue"),
        raise_faults=False,
    ) as tester:
        tester.mail().assert_rejected()
        _ = tester.faults


class Wrong(Milter):
    async def on_mail(self, sender: str, params: list[str]) -> Any:
        return Status.NOREPLY

    async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
        return "yes"


def test_wrong_results_are_faults() -> None:
    with MilterTester(chain(Silent, Wrong), raise_faults=False) as tester:
        tester.mail().assert_tempfailed()
        texts = [str(fault) for fault in tester.faults]
    assert "on_mail of Wrong: it returned NOREPLY" in texts[0]


class WrongEdits(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.add("X-A", "x" * 70_000)


def test_edits_that_cannot_be_sent_are_a_fault() -> None:
    with MilterTester(chain(WrongEdits), raise_faults=False) as tester:
        tester.send().assert_tempfailed()
        assert len(tester.faults) == 1


class Slow(Milter):
    @time_limit(0.05)
    async def on_mail(self, sender: str, params: list[str]) -> None:
        await asyncio.Event().wait()


async def test_a_time_limit_is_that_of_its_milter() -> None:
    calls: list[str] = []
    milters = [Slow, scripted("b", calls, mail=R)]
    async with AsyncMilterTester(chain(*milters), raise_faults=False) as tester:
        (await tester.mail()).assert_rejected()
        (fault,) = tester.faults
    assert "on_mail of Slow: it took longer than its time limit of 0.05 s" in str(fault)


class Hangs(Milter):
    """Hangs in its thread."""

    go_on = threading.Event()

    @time_limit(0.05)
    def on_mail(self, sender: str, params: list[str]) -> None:
        self.go_on.wait(10)

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        raise AssertionError("it is still at work")


async def test_a_thread_that_hangs_keeps_only_its_own_milter_from_being_called() -> None:
    calls: list[str] = []
    milters = [Hangs, scripted("b", calls, mail=C, rcpt=C, message=R)]
    config = Config(on_error="continue")
    Hangs.go_on.clear()
    try:
        async with AsyncMilterTester(chain(*milters), config=config, raise_faults=False) as tester:
            (await tester.send("A: b\n\nbody\n")).assert_rejected()
            first, second = [str(fault) for fault in tester.faults]
    finally:
        Hangs.go_on.set()
    assert "on_mail of Hangs: it took longer" in first
    assert "on_rcpt of Hangs: not called: an earlier handler" in second
    assert calls[:4] == ["b.begin", "b.mail", "b.rcpt", "b.message"]


class Stubborn(Milter):
    """Does not end when it is cancelled."""

    released: asyncio.Event

    @time_limit(0.05)
    async def on_message(self, message: Message) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                pass


async def test_one_that_cannot_be_cancelled_lets_nothing_pass_by_the_others() -> None:
    calls: list[str] = []
    Stubborn.released = asyncio.Event()
    milters = [Stubborn, scripted("b", calls, message=R)]
    async with AsyncMilterTester(
        chain(*milters), config=Config(on_error="accept"), raise_faults=False
    ) as tester:
        (await tester.send()).assert_tempfailed()
        (fault,) = tester.faults
        assert "on_message of Stubborn: it was cancelled, but did not end" in str(fault)
        await tester.abort()
        Stubborn.released.set()
        await asyncio.sleep(0)
        (await tester.send()).assert_rejected()
    assert calls.count("b.abort") >= 1


class Silently(Milter):
    @no_reply
    async def on_mail(self, sender: str, params: list[str]) -> Status:
        return R

    @no_reply
    async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
        return Status.NOREPLY


def test_verdicts_of_those_that_only_observe_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    with MilterTester(chain(Silently, scripted("b", calls, mail=C))) as tester:
        tester.send().assert_accepted()
    assert "on_mail of Silently returned" in caplog.text
    assert "which is dropped: it is declared no_reply" in caplog.text


class SilentFault(Milter):
    @no_reply
    async def on_mail(self, sender: str, params: list[str]) -> None:
        raise RuntimeError("unseen")


def test_a_fault_that_cannot_be_told_at_once_is_told_later() -> None:
    calls: list[str] = []
    milters = [SilentFault, scripted("b", calls, rcpt=C)]
    with MilterTester(chain(*milters), raise_faults=False) as tester:
        tester.mail().assert_continued()
        assert calls == ["b.begin", "b.abort"]
        tester.rcpt().assert_tempfailed()
        _ = tester.faults


def test_a_fault_in_a_hook_keeps_no_other_from_being_called() -> None:
    class Bad(Milter):
        async def on_close(self) -> None:
            raise RuntimeError("at the end")

    calls: list[str] = []
    with (
        pytest.raises(HandlerFault, match="on_close of"),
        MilterTester(chain(Bad, scripted("b", calls, mail=C))) as tester,
    ):
        tester.mail()
    assert calls[-1] == "b.close"


# What is asked of the MTA


class NeedsQuarantine(Milter):
    actions = Actions.QUARANTINE
    message_needs = MessageNeeds.HEADERS

    @macros("{mine}", "i")
    async def on_mail(self, sender: str, params: list[str]) -> None:
        pass

    async def on_message(self, message: Message) -> None:
        pass


class NeedsHeaders(Milter):
    actions = Actions.ADD_HEADER

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-A", "1")


def test_actions_are_those_of_all() -> None:
    both = chain(NeedsQuarantine, NeedsHeaders)
    with MilterTester(both) as tester:
        tester.send("A: b\n\nbody\n").assert_accepted()
        relay = tester.milters[0]
        assert isinstance(relay, Relay)
        assert relay.table.actions == Actions.QUARANTINE | Actions.ADD_HEADER
        # Nobody sees or replaces the body, so it is not sent.
        assert relay.table.options & Options.NO_BODY
    offer = Offer(actions=Actions.ADD_HEADER)
    with (
        pytest.raises(Exception, match=r"closed|refused"),
        MilterTester(chain(NeedsQuarantine, Adds), offer=offer) as tester,
    ):
        tester.send()


def test_macros_of_one_do_not_take_those_of_another_away() -> None:
    merged = merge_macros([{MacroStage.MAIL: ["{mine}", "i"]}, {}])
    assert merged[MacroStage.MAIL][:2] == ["{mine}", "i"]
    assert {"{auth_authen}", "{mail_addr}", "{auth_ssf}"} <= set(merged[MacroStage.MAIL])
    assert merge_macros([{MacroStage.MAIL: ["a"]}, {MacroStage.MAIL: ["b", "a"]}]) == {
        MacroStage.MAIL: ["a", "b"]
    }


class Negotiates(Milter):
    result: Any = None

    async def on_negotiate(self, negotiation: Negotiation) -> Any:
        negotiation.request_macros(MacroStage.CONNECT, "{mine}")
        negotiation.options |= Options.NO_MAIL | Options.LEADING_SPACE
        return self.result

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        assert self.macros["{mine}"] == "x"

    async def on_mail(self, sender: str, params: list[str]) -> None:
        raise AssertionError("it has asked not to be told")

    async def on_header(self, name: str, value: str) -> None:
        assert value.startswith(" ")


def test_what_one_negotiates_is_for_that_one() -> None:
    calls: list[str] = []
    milters = [Negotiates, scripted("b", calls, mail=C, header=C)]
    with MilterTester(chain(*milters), macros={"{mine}": "x"}) as tester:
        tester.send("A: b\n\n").assert_accepted()
    assert "b.mail" in calls


def test_one_that_refuses_the_mta_refuses_for_all(caplog: pytest.LogCaptureFixture) -> None:
    class Refuses(Negotiates):
        result = R

    with (
        pytest.raises(Exception, match=r"closed|refused"),
        MilterTester(chain(Silent, Refuses)) as tester,
    ):
        tester.connect()
    assert "on_negotiate of Refuses refuses" in caplog.text.replace(
        f"{Refuses.__qualname__}", "Refuses"
    )


def test_a_fault_of_one_at_the_negotiation_costs_a_verdict() -> None:
    class Bad(Negotiates):
        result = "yes"

    class Worse(Negotiates):
        async def on_negotiate(self, negotiation: Negotiation) -> Any:
            negotiation.request_macros(MacroStage.CONNECT, "with blank")
            return Status.ALL_OPTS

    for milter in (Bad, Worse):
        with MilterTester(chain(Silent, milter), raise_faults=False) as tester:
            tester.connect().assert_tempfailed()
            assert len(tester.faults) == 1


# Making chains


def test_chains_within_chains_are_one() -> None:
    whole = chain(Silent, chain(Adds, Plays))
    assert str(whole) == "chain(Silent, Adds, Plays)"
    assert repr(whole) == "<chain(Silent, Adds, Plays)>"
    assert str(chain(Adds)) == "Adds"


class NeedsArgument(Milter):
    def __init__(self, argument: int) -> None:
        self.argument = argument


class Misspelt(Milter):
    async def on_recpt(self) -> None:
        pass


async def coroutine() -> Milter:
    return Silent()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (Misspelt, "is on_rcpt meant"),
        (partial(Misspelt), "is on_rcpt meant"),
        (NeedsArgument, "cannot be called without arguments"),
        (int, "int is no subclass of Milter"),
        (Silent(), "is an object of the class Silent"),
        ("Silent", "it is not callable"),
        (coroutine, "is an async function"),
    ],
)
def test_what_cannot_work_is_told_at_once(what: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chain(Silent, what)


def test_an_empty_chain_is_none() -> None:
    with pytest.raises(ConfigError, match="at least one milter"):
        chain()


def test_what_a_factory_makes_is_checked_in_each_session() -> None:
    def a_chain() -> Milter:
        return chain(Silent)()

    same = Silent()
    makers: dict[str, Callable[[], Any]] = {
        "which is no Milter": lambda: 1,
        "the same object twice": lambda: same,
        "made a chain": a_chain,
    }
    for words, make in makers.items():
        with pytest.raises(TypeError, match=words):
            chain(make, make)()


def test_together_too_many_macros_are_refused() -> None:
    def asking(names: list[str]) -> type[Milter]:
        class Asks(Milter):
            @macros(*names)
            async def on_mail(self, sender: str, params: list[str]) -> None:
                pass

        return Asks

    half = [f"{{{'x' * 240}{number}}}" for number in range(140)]
    other = [f"{{{'y' * 240}{number}}}" for number in range(140)]
    chain(asking(half))
    with pytest.raises(ConfigError, match=r"chain.*names of all macros"):
        chain(asking(half), asking(other))


async def test_a_server_takes_a_chain(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Server(chain(Silent, Adds), "inet:0@127.0.0.1") as server:
        assert server.sockets
