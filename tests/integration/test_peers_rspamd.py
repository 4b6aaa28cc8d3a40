"""A real rspamd, consulted by `aiomilter.mta`; it asks not to be waited for before the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aiomilter import Options, Reply, Status
from aiomilter.contrib.aiosmtpd import MilterHandler
from aiomilter.mta import Client, Envelope, HeaderAdded, HeaderChanged, Mta, connect
from aiomilter.testing.servers.smtp import SmtpClient
from tests.contrib.rig import Inbox, listening
from tests.integration.peers.rspamd import running_rspamd

pytestmark = [pytest.mark.xdist_group("peers"), pytest.mark.timeout(120)]

HEADERS = b"From: a@src.example\r\nX-Multi: 1\r\nX-Multi: 2\r\nSubject: a subject\r\n"
MESSAGE = HEADERS + b"Message-ID: <1@src.example>\r\n\r\nHello\r\n"
SPAM = b"X-Spam-Test: yes\r\n" + MESSAGE
ENVELOPE = Envelope("a@src.example", ["b@dst.example", "c@dst.example"])
CLIENT = Client("client.example", "198.51.100.1", helo="helo.example")
REJECTED = Reply(554, "5.7.1", "Spam message rejected")


@pytest.fixture(scope="module")
def rspamd() -> Iterator[str]:
    with running_rspamd() as address:
        yield address


@pytest.mark.parametrize("mta", Mta)
async def test_messages_on_one_connection(rspamd: str, mta: Mta) -> None:
    async with connect(rspamd, mta=mta) as milter:
        silent = (
            Options.NO_REPLY_CONNECT
            | Options.NO_REPLY_MAIL
            | Options.NO_REPLY_HEADER
            | Options.NO_REPLY_BODY
        )
        assert milter.agreed.options & silent == silent
        for _ in range(3):
            outcome = await milter.send(ENVELOPE, MESSAGE, client=CLIENT)
            assert [step.stage for step in outcome.steps if step.is_answered] == ["eom"]
            assert sorted(outcome.edits, key=repr) == [
                HeaderAdded("X-Rspamd-Seen", "198.51.100.1 helo.example"),
                HeaderChanged("X-Multi", 2, None),
            ]
            delivery = outcome.apply()
            assert delivery is not None
            assert delivery.content.get_all("X-Multi") == ["1"]
            assert delivery.content.get("X-Rspamd-Seen") == "198.51.100.1 helo.example"
            assert delivery.envelope == ENVELOPE
            spam = await milter.send(ENVELOPE, SPAM)
            assert (spam.status, spam.stage, spam.reply) == (Status.REJECT, "eom", REJECTED)


@pytest.mark.parametrize("mta", Mta)
async def test_abandoned_message_leaves_no_trace(rspamd: str, mta: Mta) -> None:
    async with connect(rspamd, mta=mta) as milter:
        await milter.connect(CLIENT)
        await milter.helo("helo.example")
        await milter.mail("a@src.example")
        await milter.rcpt("b@dst.example")
        await milter.data()
        await milter.header("X-Spam-Test", " yes")
        await milter.abort()
        assert (await milter.send(ENVELOPE, MESSAGE)).is_accepted


async def test_several_connections_at_a_time(rspamd: str) -> None:
    async with connect(rspamd) as one, connect(rspamd) as two:
        await one.connect(CLIENT)
        assert not (await two.send(ENVELOPE, SPAM, client=CLIENT)).is_accepted
        assert (await one.send(ENVELOPE, MESSAGE)).is_accepted


async def test_spam_is_refused_by_aiosmtpd(rspamd: str) -> None:
    inbox = Inbox()
    async with (
        listening(MilterHandler(inbox, rspamd)) as port,
        SmtpClient.connect(port) as smtp,
    ):
        await smtp.ehlo()
        assert (await smtp.message(SPAM)).text == "5.7.1 Spam message rejected"
        assert (await smtp.message(MESSAGE)).code == 250
    [mail] = inbox.mails
    assert isinstance(mail.content, bytes)
    assert b"X-Rspamd-Seen: 127.0.0.1 client.example\r\n" in mail.content
    assert b"X-Multi: 2" not in mail.content
