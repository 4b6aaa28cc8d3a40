"""`on_message` behind a real Postfix and a real Sendmail: what comes, and what is delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from aiomilter import Config, Message, Milter, Server
from aiomilter.testing import Mta
from aiomilter.testing.servers import Postfix, Sendmail, Sink, SmtpClient
from examples.whole_message import Tagger
from tests.integration.dkim_cases import ALTERED, CANONICALIZATIONS, CASES, is_signed, signed

SERVERS = [pytest.param(kind, marks=pytest.mark.xdist_group(kind.value)) for kind in Mta]
CONFIG = Config(unix_mode=0o666)


@pytest.fixture(params=SERVERS)
def server(
    request: pytest.FixtureRequest, sink: Sink, sendmail_root: Path
) -> Iterator[Postfix | Sendmail]:
    if request.param is Mta.POSTFIX:
        with Postfix(sink.port) as postfix:
            postfix.start()
            yield postfix
    else:
        with Sendmail(sink.port, root=sendmail_root) as sendmail:
            yield sendmail


async def test_the_example_does_what_it_says(server: Postfix | Sendmail, sink: Sink) -> None:
    before = sink.total
    async with (
        Server(Tagger, server.milter_address, config=CONFIG),
        SmtpClient.connect(server.smtp_port) as smtp,
    ):
        await smtp.ehlo()
        for content in (
            b"Subject: hello\r\nTo: b@dst.example\r\n\r\nHello\r\n",
            b"Subject: Re: [external] hello\r\n\r\nHello\r\n",
        ):
            reply = await smtp.message(content)
            assert reply.code == 250, reply
        async with asyncio.timeout(20):
            # In two deliveries or more, as the server likes.
            while sum(len(one.recipients) for one in sink.since(before)) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    deliveries = sink.since(before)
    bodies = {delivery.body for delivery in deliveries}
    assert bodies == {b"Hello\r\n-- \r\nThis message came from outside.\r\n"}
    recipients = [one for delivery in deliveries for one in delivery.recipients]
    assert sorted(recipients) == ["<archive@example.org>"] * 2 + ["<b@dst.example>"] * 2
    subjects = {
        line
        for delivery in deliveries
        for line in delivery.header_lines
        if line.startswith(b"Subject")
    }
    assert subjects == {b"Subject: [external] hello", b"Subject: Re: [external] hello"}


class Reader(Milter):
    """Keeps what has come, by the local part of its sender."""

    seen: ClassVar[dict[str, bytes]]

    def on_message(self, message: Message) -> None:
        self.seen[message.sender.local_part] = message.as_bytes()


async def test_a_message_comes_byte_for_byte_and_its_signature_holds(
    server: Postfix | Sendmail,
) -> None:
    class ThisReader(Reader):
        seen: ClassVar[dict[str, bytes]] = {}

    sent: dict[str, tuple[str, bytes]] = {}
    async with (
        Server(ThisReader, server.milter_address, config=CONFIG),
        SmtpClient.connect(server.smtp_port) as smtp,
    ):
        await smtp.ehlo()
        for case, content in CASES.items():
            for canonicalization in CANONICALIZATIONS:
                message = signed(content, canonicalization)
                local = f"m-{len(sent)}"
                sent[local] = f"{case}, {canonicalization}", message
                reply = await smtp.message(message, f"{local}@src.example")
                assert reply.code == 250, (case, reply)
    assert len(ThisReader.seen) == len(CASES) * len(CANONICALIZATIONS)
    other = [name for local, (name, message) in sent.items() if ThisReader.seen[local] != message]
    assert other == []
    broken = [name for local, (name, _) in sent.items() if not is_signed(ThisReader.seen[local])]
    assert broken == []
    # And it would be seen.
    assert not is_signed(ThisReader.seen["m-0"].replace(b"Hello", b"Hallo"))


@pytest.mark.parametrize("case", ALTERED)
async def test_what_the_server_itself_alters_comes_as_it_will_go_on(
    server: Postfix | Sendmail, case: str
) -> None:
    class ThisReader(Reader):
        seen: ClassVar[dict[str, bytes]] = {}

    content, become = ALTERED[case]
    async with (
        Server(ThisReader, server.milter_address, config=CONFIG),
        SmtpClient.connect(server.smtp_port) as smtp,
    ):
        await smtp.ehlo()
        reply = await smtp.message(content)
    expected = become.get(server.kind, content)
    assert (reply.code == 250) == (expected is not None)
    assert ThisReader.seen.get("a") == expected
