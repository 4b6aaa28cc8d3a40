"""The content of a message, as several milters see and change it."""

from __future__ import annotations

from functools import partial

import pytest

from aiomilter import (
    Config,
    EomActions,
    Message,
    Milter,
    Status,
    Verdict,
    chain,
    leading_space,
)
from aiomilter.app.compose.relay import Relay
from aiomilter.testing import MilterTester
from tests.app.compose.scripted import A, Adds, C, D, R, T, scripted


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


def test_a_message_that_is_delivered_is_aborted_for_nobody() -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, rcpt=C), Adds, scripted("c", calls, mail=C)]
    with MilterTester(chain(*milters)) as tester:
        tester.send().assert_accepted()
        tester.send().assert_accepted()
    assert not any("abort" in call for call in calls)
