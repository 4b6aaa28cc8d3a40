"""What the wrapped handler gets of a message that milters have changed."""

from __future__ import annotations

from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from aiomilter import EomActions, Milter, Status
from aiomilter.mta import Mta
from tests.contrib.rig import MESSAGE, Inbox, Rig, decider


class Editor(Milter):
    """Changes whatever can be changed."""

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Added", "at the end")
        actions.insert_header(0, "X-Inserted", "at the top")
        actions.change_header("Subject", 1, "another")
        actions.change_header("From", 1, None)
        actions.change_sender("<other@src.example>")
        actions.add_recipient("<more@dst.example>")
        actions.delete_recipient("<b@dst.example>")
        actions.replace_body(b"Another line\r\n")
        actions.replace_body(b".dotted as well\r\n")
        return Status.ACCEPT


@pytest.mark.parametrize("mta", Mta)
async def test_all_edits_reach_the_handler(mta: Mta) -> None:
    async with Rig.session(Editor, mta=mta) as (rig, smtp):
        reply = await smtp.message(MESSAGE, recipients=["b@dst.example", "c@dst.example"])
        assert reply.text == "2.0.0 kept"
        [mail] = rig.inbox.mails
        assert mail.sender == "other@src.example"
        assert mail.recipients == ["c@dst.example", "more@dst.example"]
        assert mail.content == (
            b"X-Inserted: at the top\r\nSubject: another\r\nX-Added: at the end\r\n"
            b"\r\nAnother line\r\n.dotted as well\r\n"
        )
        assert mail.quarantine is None


async def test_message_without_edits_is_as_it_came() -> None:
    content = (
        b"Subject: =?utf-8?q?x?=\r\n\tfolded \r\nX-Empty:\r\nX-Raw: \xff\xfe\r\n"
        b"X-Utf: \xc4\x85\r\n\r\n\r\nbody \x00 \xff\r\n..\r\n"
    )
    async with Rig.session(decider(), decider()) as (rig, smtp):
        await smtp.message(content)
        assert rig.inbox.mails[0].content == content


async def test_decoded_content_stays_text() -> None:
    async with Rig.session(Editor, smtp={"decode_data": True}) as (rig, smtp):
        await smtp.message("Subject: \u0105\r\n\r\nbody\r\n".encode())
        content = rig.inbox.mails[0].content
        assert isinstance(content, str)
        assert content.startswith("X-Inserted: at the top\r\nSubject: another\r\n")


async def test_next_milter_sees_the_edits_of_the_one_before() -> None:
    seen: list[tuple[str, str] | bytes] = []

    class Second(Milter):
        async def on_header(self, name: str, value: str) -> None:
            seen.append((name, value))

        async def on_body(self, chunk: bytes) -> None:
            seen.append(chunk)

        async def on_eom(self, actions: EomActions) -> Status:
            actions.change_header("X-Added", 1, "and changed")
            return Status.ACCEPT

    async with Rig.session(Editor, Second) as (rig, smtp):
        await smtp.message(MESSAGE, recipients=["b@dst.example", "c@dst.example"])
        assert seen == [
            ("X-Inserted", "at the top"),
            ("Subject", "another"),
            ("X-Added", "at the end"),
            b"Another line\r\n.dotted as well\r\n",
        ]
        [mail] = rig.inbox.mails
        assert isinstance(mail.content, bytes)
        assert b"X-Added: and changed\r\n" in mail.content
        assert mail.recipients == ["c@dst.example", "more@dst.example"]


async def test_message_without_recipients_left_is_not_delivered() -> None:
    class Deleter(Milter):
        async def on_eom(self, actions: EomActions) -> Status:
            actions.delete_recipient("<b@dst.example>")
            return Status.ACCEPT

    async with Rig.session(Deleter) as (rig, smtp):
        assert (await smtp.message(MESSAGE)).code == 250
        assert rig.inbox.mails == []


async def test_null_sender() -> None:
    senders: list[str] = []

    class Reader(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            senders.append(sender)

    async with Rig.session(Reader) as (rig, smtp):
        await smtp.message(MESSAGE, sender="")
        assert senders == ["<>"]
        assert rig.inbox.mails[0].sender == "<>"


class Quarantiner(Milter):
    async def on_eom(self, actions: EomActions) -> Status:
        actions.quarantine("smells of spam")
        return Status.ACCEPT


@pytest.mark.parametrize("mta", Mta)
async def test_quarantine_is_left_to_the_handler(mta: Mta) -> None:
    async with Rig.session(Quarantiner, decider(), mta=mta) as (rig, smtp):
        assert (await smtp.message(MESSAGE)).text == "2.0.0 kept"
        assert [mail.quarantine for mail in rig.inbox.mails] == ["smells of spam"]


async def test_quarantine_has_a_hook() -> None:
    held: list[tuple[str, Any]] = []

    class Keeper(Inbox):
        async def handle_QUARANTINE(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope, reason: str
        ) -> str:
            held.append((reason, envelope.content))
            return "250 2.0.0 held"

    async with Rig.session(Quarantiner, inbox=Keeper()) as (rig, smtp):
        assert (await smtp.message(MESSAGE)).text == "2.0.0 held"
        assert held == [("smells of spam", MESSAGE)]
        assert rig.inbox.mails == []


async def test_header_that_no_packet_can_hold_is_refused() -> None:
    milter = decider()
    large = b"X-Large: " + b"x" * 900 + (b"\r\n " + b"x" * 900) * 80 + b"\r\n"
    async with Rig.session(milter, on_failure="accept") as (rig, smtp):
        for content in (large + MESSAGE, b"X-Nul: a\0b\r\n" + MESSAGE):
            reply = await smtp.message(content)
            assert (reply.code, reply.text) == (
                554,
                "5.6.0 A header is too large, or has a NUL in it",
            )
        assert (await smtp.message(MESSAGE)).code == 250
        assert len(rig.inbox.mails) == 1
        assert milter.journal.entries.count("abort") == 2
