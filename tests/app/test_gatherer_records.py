"""The record of a message that was gathered, and what observers hear of it."""

from __future__ import annotations

import pytest

from aiomilter import Status
from tests.app.keeper import CURRENT, MESSAGE, WAITING, Keeper, keeper, policy
from tests.app.test_observer import Rig
from tests.mta import ABORT, BODY, CONNECT, EOM, HEADER, HELO, MAIL, RCPT


async def test_its_record_has_all_of_it_and_one_handler_was_called() -> None:
    rig = Rig(keeper(decide=lambda self, message: message.headers.add("X-A", "b") and None))
    await rig.feed(CURRENT, CONNECT, HELO, *MESSAGE)
    (record,) = rig.records
    assert (record.verdict, record.stage) == ("continue", "eom")
    assert (record.sender, record.recipients) == ("<alice@a.example>", ("<bob@b.example>",))
    assert (record.client, record.helo_name) == ("192.0.2.1:12345", "mx.example")
    assert record.size_bytes == len("Subject") + len("hello") + len("hello\r\n")
    assert record.edits == {"add_header": 1}
    handlers = [told[0] for told in rig.journal.told if str(told[0]).startswith("on_")]
    assert handlers == ["on_message"]


@pytest.mark.parametrize("status", [Status.TEMPFAIL, Status.ACCEPT, Status.CONTINUE])
@pytest.mark.parametrize("offered", [CURRENT, WAITING])
async def test_a_message_above_a_limit_is_recorded_once(status: Status, offered: bytes) -> None:
    rig = Rig(Keeper, policy(max_body_bytes=3, on_limit=status))
    await rig.feed(offered, MAIL, RCPT, HEADER, BODY)
    goes_on = offered is CURRENT or status is Status.CONTINUE
    await rig.feed(*([BODY, EOM] if goes_on else [ABORT]))
    await rig.feed(MAIL, RCPT, EOM)
    stage = "eom" if status is Status.CONTINUE else "body"
    assert rig.ends == [(status.name.lower(), stage), ("continue", "eom")]
    assert [record.faults for record in rig.records] == [0, 0]


async def test_a_piece_that_cannot_be_kept_is_a_fault_in_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    rig = Rig(Keeper, policy(spool_threshold=3))
    await rig.feed(CURRENT, *MESSAGE)
    (record,) = rig.records
    assert (record.verdict, record.stage, record.faults) == ("tempfail", "body", 1)
    assert ("fault", "on_message", "exception") in rig.journal.told


async def test_one_that_is_given_up_is_an_abort() -> None:
    rig = Rig(Keeper)
    await rig.feed(CURRENT, MAIL, RCPT, HEADER, BODY, ABORT)
    assert rig.ends == [("abort", "body")]
