"""Milters that only say what they would do."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from aiomilter import (
    Actions,
    Config,
    EomActions,
    Message,
    Milter,
    Negotiation,
    Options,
    Reply,
    SocketInfo,
    Status,
    Verdict,
    chain,
    dry_run,
)
from aiomilter.app.compose.trial import describe_edit
from aiomilter.logs import JsonFormatter
from aiomilter.mta import (
    BodyReplaced,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Offer,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.testing import AsyncMilterTester, MilterTester

LOGGER = "aiomilter.dry_run"


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said, without the ids."""
    records = [record for record in caplog.records if record.name == LOGGER]
    caplog.clear()
    return [record.getMessage().partition("] dry run of ")[2] for record in records]


class Strict(Milter):
    """Has an opinion on everything."""

    actions = Actions.QUARANTINE | Actions.CHANGE_HEADER

    def begin_message(self) -> None:
        self.asked: list[str] = []

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        self.asked.append(recipient)
        return Reply(550, "5.1.1", "gone") if recipient.startswith("<gone") else None

    async def on_message(self, message: Message) -> Verdict:
        assert [one.address for one in message.recipients] == list(self.recipients)
        message.headers.replace("Subject", "changed\x1b[2J")
        message.headers.remove("X-Old")
        message.recipients.add("<more@x.example>")
        message.sender = "<other@x.example>"
        message.body.replace(b"new")
        message.quarantine("strict")
        return Status.ACCEPT


def test_nothing_is_done_and_everything_is_said(caplog: pytest.LogCaptureFixture) -> None:
    # It could not do it, either: the MTA offers nothing.
    with MilterTester(dry_run(Strict), offer=Offer(actions=Actions.ADD_HEADER)) as tester:
        for _ in range(2):
            result = tester.send(
                "Subject: s\nX-Old: 1\n\nbody\n", recipients=["gone@x.example", "b@x.example"]
            )
            assert (result.status, result.edits, result.refused_recipients) == (
                Status.ACCEPT,
                (),
                (),
            )
            assert len(result.envelope.recipients) == 2
            (line,) = told(caplog)
            assert line == (
                "Strict: accept at eom refused=[<gone@x.example>] "
                "edits=[change_sender(<other@x.example>), add_recipient(<more@x.example>), "
                "change_header(Subject, 1: changed\\x1b[2J), delete_header(X-Old, 1), "
                "quarantine(strict), replace_body(5 bytes)]"
            )


class OfPieces(Milter):
    """Works on the callbacks."""

    async def on_header(self, name: str, value: str) -> Status | None:
        return Status.REJECT if name == "X-Bad" else None

    async def on_eom(self, actions: EomActions) -> Reply | None:
        if self.helo_name == "liar":
            return Reply(451, "4.7.1", "later")
        for number in range(30):
            actions.add_header("X-Long", f"{number} " + "x" * 900)
        actions.replace_body(b"")
        return None


def test_callbacks_are_tried_out_as_well(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(dry_run(OfPieces)) as tester:
        tester.send("X-Bad: 1\n\n").assert_accepted()
        assert told(caplog) == ["OfPieces: reject at eom"]
        assert tester.send("X-Good: 1\n\nbody\n").edits == ()
        (line,) = told(caplog)
        assert line.endswith(", replace_body(0 bytes), and 10 more]")
        assert len(line) < 2500
        tester.new_session()
        tester.helo("liar")
        tester.send().assert_accepted()
        assert told(caplog) == ["OfPieces: tempfail at eom (451 4.7.1 later)"]


class Early(Milter):
    """Decides before there is any content."""

    async def on_connect(self, hostname: str, client: SocketInfo) -> Status | None:
        return Status.REJECT if hostname == "bad.example" else None

    async def on_mail(self, sender: str, params: list[str]) -> Status | None:
        verdicts = {"<reject@x.example>": Status.REJECT, "<accept@x.example>": Status.ACCEPT}
        return verdicts.get(sender)

    async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
        if self.sender in ("<reject@x.example>", "<accept@x.example>"):
            raise AssertionError("it has decided")
        return Status.REJECT

    async def on_abort(self) -> None:
        self.log.info("aborted")


def test_what_it_has_decided_is_over_for_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(dry_run(Early)) as tester:
        tester.send(sender="reject@x.example").assert_accepted()
        assert told(caplog) == ["Early: reject at mail"]
        tester.send(sender="accept@x.example").assert_accepted()
        assert told(caplog) == ["Early: accept at mail"]
        tester.send(sender="a@x.example", recipients="b@x.example").assert_accepted()
        assert told(caplog) == ["Early: continue at eom refused=[<b@x.example>]"]
        tester.mail("a@x.example")
        tester.rcpt("b@x.example").assert_continued()
        tester.abort()
        assert told(caplog) == ["Early: abort at rcpt refused=[<b@x.example>]"]
        tester.mail("a@x.example")
        tester.abort()
        assert told(caplog) == []


def test_a_session_that_it_has_decided_is_over_for_it_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from aiomilter.mta import Client

    with MilterTester(dry_run(Early)) as tester:
        tester.connect(Client("bad.example", "192.0.2.7")).assert_continued()
        tester.send(sender="reject@x.example").assert_accepted()
    assert told(caplog) == ["Early: reject at connect"]


class Adds(Milter):
    async def on_message(self, message: Message) -> None:
        count = len(message.headers.get_all("X-A"))
        message.headers.add("X-A", str(count))


class Refuses(Milter):
    async def on_message(self, message: Message) -> Status:
        return Status.REJECT


def test_in_a_chain_it_sees_the_others_and_is_not_seen(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(chain(Adds, dry_run(Adds), Adds, dry_run(chain(Adds, Adds)))) as tester:
        result = tester.send("Subject: s\n\n")
    assert result.message.get_all("X-A") == ["0", "1"]
    lines = told(caplog)
    assert [line.partition("X-A: ")[2] for line in lines] == ["1)]", "2)]", "3)]"]


def test_its_refusal_lets_a_chain_go_on(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(chain(dry_run(Refuses), Adds)) as tester:
        assert tester.send("Subject: s\n\n").message.get("X-A") == "0"
    assert told(caplog) == ["Refuses: reject at eom"]


def test_it_is_told_that_another_has_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiomilter.milter")
    with MilterTester(chain(Refuses, dry_run(Early))) as tester:
        tester.send(sender="a@x.example", recipients="b@x.example").assert_rejected()
    assert "aborted" in caplog.text
    assert told(caplog) == ["Early: abort at rcpt refused=[<b@x.example>]"]


class Fails(Milter):
    async def on_negotiate(self, negotiation: Negotiation) -> Any:
        return "wrong"

    def begin_message(self) -> None:
        if self.helo_name == "early":
            raise RuntimeError("early")

    async def on_helo(self, hostname: str) -> None:
        pass

    async def on_message(self, message: Message) -> None:
        message.headers.add("X-A", "1")
        raise RuntimeError("late")


@pytest.mark.parametrize(("helo", "stage"), [("early", "mail"), ("late", "eom")])
def test_its_faults_cost_nothing(helo: str, stage: str, caplog: pytest.LogCaptureFixture) -> None:
    config = Config(on_error="reject")
    with MilterTester(chain(dry_run(Fails), Adds), config=config, raise_faults=False) as tester:
        tester.helo(helo)
        tester.mail().assert_continued()
        assert tester.send("Subject: s\n\n").message.get_all("X-A") == ["0"]
        faults = [str(fault) for fault in tester.faults]
    assert faults
    lines = told(caplog)
    assert lines[-1] == f"Fails: reject at {stage} after a fault"


class RefusesMta(Milter):
    async def on_negotiate(self, negotiation: Negotiation) -> Status:
        return Status.REJECT

    async def on_mail(self, sender: str, params: list[str]) -> None:
        raise AssertionError("it has refused")


def test_one_that_refuses_the_mta_is_out() -> None:
    with MilterTester(chain(dry_run(RefusesMta), Adds)) as tester:
        assert tester.send("Subject: s\n\n").message.get("X-A") == "0"


def test_edits_that_cannot_be_compared_are_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    class Closes(Milter):
        async def on_message(self, message: Message) -> None:
            message.body.replace(b"new body")
            message.close()

    with MilterTester(dry_run(Closes), raise_faults=False) as tester:
        tester.send("Subject: s\n\nold\n").assert_accepted()
        _ = tester.faults
    (line,) = told(caplog)
    assert "continue at eom" in line


async def test_large_bodies_are_compared_in_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Large(Milter):
        async def on_message(self, message: Message) -> None:
            await asyncio.to_thread(message.body.replace, b"0123456789\r\n" * 200_000)

    async with AsyncMilterTester(dry_run(Large)) as tester:
        (await tester.send("Subject: s\n\nold\n")).assert_accepted()
    (line,) = told(caplog)
    assert line.endswith("Large: continue at eom edits=[replace_body(2400000 bytes)]")


def test_json_has_it_in_fields(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(dry_run(Refuses)) as tester:
        tester.send()
    (record,) = (one for one in caplog.records if one.name == LOGGER)
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "reject at eom"
    assert line["mail"] == {"dry_run": "Refuses", "verdict": "reject", "stage": "eom"}
    assert line["queue_id"]


def test_the_name_says_that_it_is_a_trial() -> None:
    assert str(dry_run(Adds)) == "dry_run(Adds)"
    assert str(chain(Adds, dry_run(Refuses))) == "chain(Adds, dry_run(Refuses))"


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (HeaderAdded("X-A", " 1"), "add_header(X-A: 1)"),
        (HeaderInserted(1, "X-A", " 1\n\t2"), "insert_header(1, X-A: 1\\n\\t2)"),
        (HeaderChanged("X-A", 2, "v"), "change_header(X-A, 2: v)"),
        (HeaderChanged("X-A", 2, None), "delete_header(X-A, 2)"),
        (SenderChanged("<a@b>", "RET=HDRS"), "change_sender(<a@b> RET=HDRS)"),
        (RecipientAdded("<a@b>"), "add_recipient(<a@b>)"),
        (RecipientDeleted("<a@b>\udcff"), "delete_recipient(<a@b>\\xff)"),
        (Quarantined("r" * 100), f"quarantine({'r' * 77}…)"),
        (BodyReplaced(b"abc"), "replace_body(3 bytes)"),
    ],
)
def test_each_edit_in_words(edit: Any, text: str) -> None:
    assert describe_edit(edit) == text


class RefusesAll(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
        return Status.REJECT


def test_one_that_wants_no_content_tells_when_the_message_is_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MilterTester(chain(dry_run(RefusesAll), Adds)) as tester:
        tester.send(recipients="b@x.example").assert_accepted()
    assert told(caplog) == ["RefusesAll: continue at eom refused=[<b@x.example>]"]


class PutsBytes(Milter):
    async def on_message(self, message: Message) -> None:
        message.body = b"bytes"  # type: ignore[assignment]  # a mistake that authors make


def test_what_cannot_be_compared_is_a_fault_and_seen_by_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MilterTester(dry_run(chain(PutsBytes, Adds)), raise_faults=False) as tester:
        tester.send("Subject: s\n\n").assert_accepted()
        assert len(tester.faults) == 1
    first, second = told(caplog)
    assert first == "PutsBytes: tempfail at eom after a fault"
    assert second == "Adds: continue at eom edits=[add_header(X-A: 0)]"


class CannotBeMade(Milter):
    def __init__(self) -> None:
        raise RuntimeError("no database")


def test_one_that_cannot_be_made_costs_nothing() -> None:
    config = Config(on_error="reject")
    with MilterTester(
        chain(dry_run(CannotBeMade), Adds), config=config, raise_faults=False
    ) as tester:
        assert tester.send("Subject: s\n\n").message.get("X-A") == "0"
        (fault,) = tester.faults
    assert "the factory of CannotBeMade (dry run: it has no effect)" in str(fault)


class WantsRejected(Milter):
    async def on_negotiate(self, negotiation: Negotiation) -> None:
        negotiation.options |= Options.REJECTED_RECIPIENTS


def test_what_it_asks_for_is_not_needed() -> None:
    offer = Offer(options=Options(0x7F))
    with MilterTester(chain(dry_run(WantsRejected), Adds), offer=offer) as tester:
        assert tester.send("Subject: s\n\n").message.get("X-A") == "0"


class TooLong(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.add("X-Long", "x" * 70_000)


def test_edits_that_could_not_be_made_are_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(dry_run(TooLong), raise_faults=False) as tester:
        tester.send().assert_accepted()
        assert len(tester.faults) == 1
    assert told(caplog) == ["TooLong: tempfail at eom after a fault"]
