"""A real OpenDKIM, consulted by `aiomilter.mta` and by an SMTP server of aiosmtpd."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest

from aiomilter.contrib.aiosmtpd import MilterHandler
from aiomilter.mta import Client, Content, Envelope, HeaderInserted, Mta, connect
from aiomilter.testing.servers.smtp import SmtpClient
from tests.contrib.rig import Inbox, listening
from tests.integration.peers.opendkim import DOMAIN, SELECTOR, running_opendkim

pytestmark = pytest.mark.xdist_group("peers")

MESSAGE = (
    b"From: Alice <a@src.example>\r\nTo: b@dst.example\r\n"
    b"Subject: a subject\r\n of two lines\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"
    b"Message-ID: <1@src.example>\r\n\r\nHello \r\n\r\n.dotted\r\n"
)
ENVELOPE = Envelope("a@src.example", "b@dst.example")
INSIDE = Client("inside.example", "192.0.2.7")
OUTSIDE = Client("outside.example", "198.51.100.1")


@pytest.fixture(scope="module")
def opendkim() -> Iterator[str]:
    with running_opendkim() as address:
        yield address


async def verdict_on(opendkim: str, content: bytes, mta: Mta = Mta.POSTFIX) -> str:
    """Return what OpenDKIM itself says of a signature: pass, fail, none, ..."""
    async with connect(opendkim, mta=mta) as milter:
        outcome = await milter.send(ENVELOPE, content, client=OUTSIDE)
    assert outcome.is_accepted
    for edit in outcome.edits:
        if isinstance(edit, HeaderInserted) and edit.name == "Authentication-Results":
            found = re.search(r"mx\.test\.example;\s+dkim=(\w+)", edit.value)
            assert found, edit.value
            return found[1]
    return "none"


def signature_of(content: bytes) -> dict[str, str]:
    """Return the tags of the only signature."""
    [value] = Content.parse(content).get_all("DKIM-Signature")
    tags = (tag.partition("=") for tag in re.sub(r"\s", "", value).split(";"))
    return {name: value for name, _, value in tags}


@pytest.mark.parametrize("mta", Mta)
async def test_signed_message_verifies(opendkim: str, mta: Mta) -> None:
    async with connect(opendkim, mta=mta) as milter:
        outcome = await milter.send(ENVELOPE, MESSAGE, client=INSIDE)
    delivery = outcome.apply()
    assert delivery is not None
    signed = delivery.content.as_bytes()
    assert signed.startswith(b"DKIM-Signature: ")
    assert signed.endswith(MESSAGE)
    tags = signature_of(signed)
    assert (tags["d"], tags["s"], tags["c"]) == (DOMAIN, SELECTOR, "relaxed/relaxed")
    # Relaxed: no blanks at the end of lines, no empty lines at the end.
    body_hash = hashlib.sha256(b"Hello\r\n\r\n.dotted\r\n").digest()
    assert tags["bh"] == base64.b64encode(body_hash).decode()
    assert await verdict_on(opendkim, signed, mta) == "pass"


async def test_changed_message_does_not_verify(opendkim: str) -> None:
    async with connect(opendkim) as milter:
        delivery = (await milter.send(ENVELOPE, MESSAGE, client=INSIDE)).apply()
    assert delivery is not None
    signed = delivery.content.as_bytes()
    assert await verdict_on(opendkim, signed.replace(b"Hello", b"Hallo")) == "fail"
    assert await verdict_on(opendkim, signed.replace(b"a subject", b"my subject")) == "fail"
    assert await verdict_on(opendkim, MESSAGE) == "none"


@pytest.mark.parametrize("mta", Mta)
async def test_messages_on_one_connection(opendkim: str, mta: Mta) -> None:
    async with connect(opendkim, mta=mta) as milter:
        hashes: set[str] = set()
        for number in range(5):
            await milter.send(ENVELOPE, MESSAGE, client=INSIDE)
            content = MESSAGE + b"%d\r\n" % number
            delivery = (await milter.send(ENVELOPE, content)).apply()
            assert delivery is not None
            hashes.add(signature_of(delivery.content.as_bytes())["bh"])
        assert len(hashes) == 5


async def test_abandoned_message_leaves_no_trace(opendkim: str) -> None:
    async with connect(opendkim) as milter:
        await milter.connect(INSIDE)
        await milter.helo("inside.example")
        await milter.mail("a@src.example")
        await milter.rcpt("b@dst.example")
        await milter.data()
        await milter.header("From", " mallory@other.example")
        await milter.header("Subject", " given up")
        await milter.abort()
        delivery = (await milter.send(ENVELOPE, MESSAGE)).apply()
    assert delivery is not None
    assert await verdict_on(opendkim, delivery.content.as_bytes()) == "pass"


async def test_large_body(opendkim: str) -> None:
    body = b"".join(b"line %d\r\n" % number for number in range(30_000))
    async with connect(opendkim) as milter:
        outcome = await milter.send(ENVELOPE, MESSAGE + body, client=INSIDE)
    delivery = outcome.apply()
    assert delivery is not None
    assert await verdict_on(opendkim, delivery.content.as_bytes()) == "pass"


async def test_mail_through_aiosmtpd_is_signed(opendkim: str) -> None:
    inbox = Inbox()
    async with (
        listening(MilterHandler(inbox, opendkim)) as port,
        SmtpClient.connect(port) as smtp,
    ):
        await smtp.ehlo()
        for _ in range(2):
            assert (await smtp.message(MESSAGE)).code == 250
    assert len(inbox.mails) == 2
    for mail in inbox.mails:
        assert isinstance(mail.content, bytes)
        assert mail.content.endswith(MESSAGE)
        assert signature_of(mail.content)["d"] == DOMAIN
        assert await verdict_on(opendkim, mail.content) == "pass"
