"""Every verdict at every stage, as the SMTP client and the wrapped handler see it."""

from __future__ import annotations

from typing import Any

import pytest

from aiomilter import Reply, Status
from aiomilter.testing.servers.smtp import SmtpClient, SmtpReply
from tests.contrib.rig import MESSAGE, Rig, decider

STAGES = ["connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom"]
SESSION_STAGES = ["connect", "helo"]
CONTENT_STAGES = ["data", "header", "eoh", "body", "eom"]

REJECTED = SmtpReply(550, ("5.7.1 Command rejected",))
DEFERRED = SmtpReply(451, ("4.7.1 Service unavailable - try again later",))
REFUSALS: list[tuple[Any, SmtpReply]] = [
    (Status.REJECT, REJECTED),
    (Status.TEMPFAIL, DEFERRED),
    (
        Reply(554, "5.7.0", "100% no", "nor ever"),
        SmtpReply(554, ("5.7.0 100% no", "5.7.0 nor ever")),
    ),
    (Reply(450, None, "later"), SmtpReply(450, ("later",))),
    (Reply(550, "5.1.1"), SmtpReply(550, ("5.1.1",))),
]
IDS = ["reject", "tempfail", "lines", "without-enhanced-code", "without-text"]


async def until_refused(smtp: SmtpClient) -> tuple[str, SmtpReply]:
    """Send a message up to the first refusal; return where that was, and what was said."""
    for line in ("EHLO client.example", "MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>"):
        reply = await smtp.command(line)
        if reply.code >= 400:
            return line[:4], reply
    return "DATA", await smtp.content(MESSAGE)


def where(stage: str) -> str:
    """Return the SMTP command at which a client hears of a stage."""
    commands = {"connect": "EHLO", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT"}
    return commands.get(stage, "DATA")


@pytest.mark.parametrize(("verdict", "expected"), REFUSALS, ids=IDS)
@pytest.mark.parametrize("stage", STAGES)
async def test_refusal_is_the_answer_to_its_command(
    stage: str, verdict: Any, expected: SmtpReply
) -> None:
    async with (
        Rig.running(decider(**{stage: verdict})) as rig,
        SmtpClient.connect(rig.port) as smtp,
    ):
        assert await until_refused(smtp) == (where(stage), expected)
        assert rig.inbox.mails == []


@pytest.mark.parametrize("stage", SESSION_STAGES)
async def test_refusal_of_the_client_holds_for_its_session(stage: str) -> None:
    milter = decider(**{stage: Status.REJECT})
    async with Rig.running(milter) as rig, SmtpClient.connect(rig.port) as smtp:
        for line in ("EHLO one.example", "HELO two.example", "MAIL FROM:<a@src.example>"):
            assert await smtp.command(line) == REJECTED
        assert (await smtp.command("QUIT")).code == 221
    assert milter.journal.entries.count(stage) == 1


@pytest.mark.parametrize("stage", STAGES)
async def test_accept_asks_no_further(stage: str) -> None:
    milter = decider(**{stage: Status.ACCEPT})
    async with Rig.session(milter) as (rig, smtp):
        assert await smtp.message(MESSAGE) == SmtpReply(250, ("2.0.0 kept",))
        assert len(rig.inbox.mails) == 1
        await smtp.quit()
        await milter.journal.until("close")
        expected = STAGES[: STAGES.index(stage) + 1]
        assert [*dict.fromkeys(milter.journal.entries)] == [*expected, "close"]


@pytest.mark.parametrize("stage", STAGES)
async def test_accepted_message_and_accepted_client(stage: str) -> None:
    milter = decider(**{stage: Status.ACCEPT})
    async with Rig.session(milter) as (rig, smtp):
        for _ in range(2):
            assert (await smtp.message(MESSAGE)).code == 250
        assert len(rig.inbox.mails) == 2
        # Who accepts the client is not asked about its messages.
        assert milter.journal.entries.count("mail") == (0 if stage in SESSION_STAGES else 2)


@pytest.mark.parametrize("stage", STAGES[2:])
async def test_discarded_message_is_answered_as_if_it_were_taken(stage: str) -> None:
    async with Rig.session(decider(**{stage: Status.DISCARD})) as (rig, smtp):
        assert await smtp.message(MESSAGE) == SmtpReply(250, ("OK",))
        assert rig.inbox.mails == []


@pytest.mark.parametrize("stage", SESSION_STAGES)
async def test_discard_of_a_client_means_nothing(stage: str) -> None:
    async with Rig.session(decider(**{stage: Status.DISCARD})) as (rig, smtp):
        assert (await smtp.message(MESSAGE)).text == "2.0.0 kept"
        assert len(rig.inbox.mails) == 1


@pytest.mark.parametrize("stage", STAGES)
async def test_421_hangs_up(stage: str) -> None:
    milter = decider(**{stage: Reply(421, "4.7.0", "go away")})
    async with Rig.running(milter) as rig, SmtpClient.connect(rig.port) as smtp:
        assert await until_refused(smtp) == (where(stage), SmtpReply(421, ("4.7.0 go away",)))
        with pytest.raises(ConnectionError):
            await smtp.command("NOOP")
        await milter.journal.until("close")
        assert rig.inbox.mails == []


@pytest.mark.parametrize("status", [Status.REJECT, Status.TEMPFAIL])
async def test_refused_recipient_leaves_the_others(status: Status) -> None:
    class OneRefused(decider()):  # type: ignore[misc]  # made for this test
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            return status if recipient == "<bad@dst.example>" else Status.CONTINUE

    async with Rig.session(OneRefused) as (rig, smtp):
        replies = await smtp.pipeline(
            "MAIL FROM:<a@src.example>",
            "RCPT TO:<b@dst.example>",
            "RCPT TO:<bad@dst.example>",
            "RCPT TO:<c@dst.example>",
        )
        assert [reply.code for reply in replies] == [
            250,
            250,
            550 if status is Status.REJECT else 451,
            250,
        ]
        assert (await smtp.content(MESSAGE)).code == 250
        assert rig.inbox.mails[0].recipients == ["b@dst.example", "c@dst.example"]


async def test_message_without_recipients_is_not_asked_about() -> None:
    milter = decider(rcpt=Status.REJECT)
    async with Rig.session(milter) as (_, smtp):
        await smtp.pipeline("MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>")
        assert (await smtp.command("DATA")).code == 503
        await smtp.quit()
        await milter.journal.until("close")
        assert milter.journal.entries == ["connect", "helo", "mail", "rcpt", "abort", "close"]


async def test_refused_sender_can_be_followed_by_another() -> None:
    class OneRefused(decider()):  # type: ignore[misc]  # made for this test
        async def on_mail(self, sender: str, params: list[str]) -> Status:
            return Status.REJECT if sender == "<bad@src.example>" else Status.CONTINUE

    async with Rig.session(OneRefused) as (rig, smtp):
        assert await smtp.command("MAIL FROM:<bad@src.example>") == REJECTED
        assert (await smtp.command("RCPT TO:<b@dst.example>")).code == 503
        assert (await smtp.message(MESSAGE)).code == 250
        assert rig.inbox.mails[0].sender == "a@src.example"


@pytest.mark.parametrize(
    ("smtputf8", "expected"), [(True, "5.7.1 żółw"), (False, "5.7.1 ???w")], ids=["utf8", "ascii"]
)
async def test_words_of_a_reply_are_in_the_charset_of_the_server(
    smtputf8: bool, expected: str
) -> None:
    milter = decider(mail=Reply(550, "5.7.1", "żółw"))
    async with Rig.session(milter, smtp={"enable_SMTPUTF8": smtputf8}) as (_, smtp):
        assert await smtp.command("MAIL FROM:<a@src.example>") == SmtpReply(550, (expected,))


async def test_second_milter_is_not_asked_about_what_the_first_refuses() -> None:
    first, second = decider(rcpt=Status.REJECT), decider()
    async with Rig.session(first, second) as (_, smtp):
        replies = await smtp.pipeline("MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>")
        assert replies[1] == REJECTED
        assert second.journal.entries == ["connect", "helo", "mail"]


async def test_refusal_of_the_last_milter_counts() -> None:
    first, second = decider(), decider(eom=Status.REJECT)
    async with Rig.session(first, second) as (rig, smtp):
        assert await smtp.message(MESSAGE) == REJECTED
        assert first.journal.entries.count("eom") == second.journal.entries.count("eom") == 1
        assert rig.inbox.mails == []


@pytest.mark.parametrize("verdict", [Status.REJECT, Status.DISCARD])
async def test_other_milters_hear_that_nothing_comes_of_the_message(verdict: Status) -> None:
    first, second = decider(eom=verdict), decider()
    async with Rig.session(first, second) as (rig, smtp):
        await smtp.message(MESSAGE)
        await second.journal.until("abort")
        assert second.journal.entries == ["connect", "helo", "mail", "rcpt", "abort"]
        assert "abort" not in first.journal.entries
        assert rig.inbox.mails == []


async def test_first_milter_done_with_the_client_leaves_it_to_the_second() -> None:
    first, second = decider(connect=Status.ACCEPT), decider(eom=Status.REJECT)
    async with Rig.session(first, second) as (rig, smtp):
        assert await smtp.message(MESSAGE) == REJECTED
        await first.journal.until("close")
        assert rig.connections == 1
