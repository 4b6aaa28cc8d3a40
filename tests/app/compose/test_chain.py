"""Several milters as one: who is asked, and whose verdict counts."""

from __future__ import annotations

import pytest

from aiomilter import (
    Message,
    Milter,
    Reply,
    Status,
    Verdict,
    chain,
    rejected_recipients,
)
from aiomilter.app.compose.relay import Relay
from aiomilter.mta import Mta
from aiomilter.testing import MilterTester
from tests.app.compose.scripted import A, C, D, R, Silent, T, scripted

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


# What is to be kept apart


class Meddles(Milter):
    async def on_mail(self, sender: str, params: list[str]) -> None:
        params.append("MEDDLED")


class Params(Milter):
    async def on_mail(self, sender: str, params: list[str]) -> None:
        assert params == []


def test_what_one_does_to_its_arguments_is_not_seen_by_the_next() -> None:
    with MilterTester(chain(Meddles, Params)) as tester:
        tester.mail().assert_continued()


def test_skip_outside_of_a_message_skips_nothing_else() -> None:
    calls: list[str] = []
    with MilterTester(chain(scripted("a", calls, helo=Status.SKIP, mail=C))) as tester:
        tester.helo("a.example")
        tester.helo("b.example")
    assert calls.count("a.helo") == 2


class Logs(Milter):
    async def on_message(self, message: Message) -> None:
        pass

    async def on_abort(self) -> None:
        self.log.warning("it is over")


@pytest.mark.parametrize("stage", ["data", "message"])
def test_who_hears_that_a_message_is_over_still_logs_its_queue_id(
    stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with MilterTester(chain(scripted("a", [], **{stage: R}), Logs)) as tester:
        tester.send().assert_rejected()
    (line,) = [one.getMessage() for one in caplog.records if "it is over" in one.getMessage()]
    assert line.endswith("4aio00000001] it is over")
