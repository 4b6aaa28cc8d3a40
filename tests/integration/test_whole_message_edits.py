"""Random edits of whole messages, made by a real Postfix and a real Sendmail.

A plain milter collects each message, edits it as the number in its sender says, and asks for what
`plan_edits` has come to. What is delivered has to be what the milter wanted, header for header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from aiomilter import Config, EomActions, Milter, Server, leading_space
from aiomilter.app.message import (
    Body,
    EnvelopeAddress,
    Header,
    Headers,
    Message,
    Recipients,
    plan_edits,
)
from aiomilter.app.mta.kind import Mta, detect_mta
from aiomilter.testing.servers.postfix import Postfix
from aiomilter.testing.servers.sendmail import Sendmail
from aiomilter.testing.servers.sink import Delivery, Sink
from aiomilter.testing.servers.smtp import SmtpClient
from tests.app.message.edits import edit_randomly, random_headers
from tests.app.message.test_diff import edit_envelope

MESSAGES = 300
FIXED = [
    ("From", "a@src.example"),
    ("Date", "Thu, 1 Jan 1970 00:00:00 +0000"),
    ("Message-Id", "<1@src.example>"),
]


class Editor(Milter):
    """Edits each message at random, and notes what it wants to be delivered."""

    wanted: ClassVar[dict[int, Message]]
    seen: ClassVar[set[Mta | None]]
    wants_portable: bool

    def begin_message(self) -> None:
        self.headers: list[Header] = []
        self.body = Body()

    async def on_connect(self, hostname: str, client: object) -> None:
        self.seen.add(detect_mta(self.macros))

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.from_ = EnvelopeAddress.received(sender, params)

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        """Have the library note it."""

    @leading_space
    async def on_header(self, name: str, value: str) -> None:
        raw = value.encode("utf-8", "surrogateescape")
        self.headers.append(Header(name.encode("utf-8", "surrogateescape"), raw))

    async def on_body(self, chunk: bytes) -> None:
        self.body.write(chunk)

    async def on_eom(self, actions: EomActions) -> None:
        number = int(self.from_.local_part.partition("-")[2])
        recipients = Recipients(EnvelopeAddress.received(one) for one in self.recipients)
        message = Message(self.from_, recipients, Headers(self.headers), self.body)
        self.edit(message)
        mta = None if self.wants_portable else detect_mta(self.macros)
        plan = plan_edits(message, mta)
        plan.apply(actions)
        self.wanted[number] = message

    def edit(self, message: Message) -> None:
        edit(int(message.sender.local_part.partition("-")[2]), message)


def edit(number: int, message: Message) -> None:
    random = Random(f"edit {number}")
    fixed = [header for header in message.headers if header.name in dict(FIXED)]
    edit_randomly(random, message.headers, keep=fixed)
    if number % 3 == 0:
        edit_envelope(random, message)
        # Somebody has to get it, and it has to be known again.
        message.recipients.add("<last@dst.example>")
        message.body.replace(b"%dnew\n" % number if message.body.is_changed() else b"%d\n" % number)
        message._quarantine_reason = None


def content_of(number: int) -> bytes:
    """Return the message of a number: some headers at random among those that each needs."""
    random = Random(f"message {number}")
    headers = random_headers(random)
    for line in FIXED:
        headers.insert(random.randrange(len(headers) + 1), line)
    text = "".join(f"{name}: {value}\n" for name, value in headers)
    return text.replace("\n", "\r\n").encode() + b"\r\n%d\r\n" % number


def differences(number: int, message: Message, delivery: Delivery) -> list[str]:
    """Compare what was delivered with what was wanted."""
    found: list[str] = []
    # Sink and milter both have the value from behind the colon on.
    got = [line.decode("utf-8", "surrogateescape") for line in delivery.own_header_lines]
    want = [
        header.raw.removesuffix(b"\r\n").decode("utf-8", "surrogateescape")
        for header in message.headers
    ]
    if got != want:
        found.append(f"{number}: headers {got} are not {want}")
    if not delivery.header_lines[0].startswith(b"Received: from client.example"):
        found.append(f"{number}: the server's own Received header is not on top")
    if delivery.body != message.body.read():
        found.append(f"{number}: body {delivery.body!r}")
    if {one.lower() for one in delivery.recipients} != {
        str(one).lower() for one in message.recipients
    }:
        found.append(f"{number}: recipients {delivery.recipients} are not {message.recipients}")
    if delivery.sender != str(message.sender):
        found.append(f"{number}: sender {delivery.sender} is not {message.sender}")
    return found


SERVERS = [pytest.param(kind, marks=pytest.mark.xdist_group(kind.value)) for kind in Mta]


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


async def deliveries(sink: Sink, since: int, count: int) -> list[Delivery]:
    """Return what has come, when so much of it has come."""
    async with asyncio.timeout(20):
        while sink.total < since + count:  # noqa: ASYNC110  (the sink has threads, and no event)
            await asyncio.sleep(0.02)
    return sink.since(since)


@pytest.mark.unmeasured
@pytest.mark.parametrize("portable", [False, True], ids=["for-this-one", "for-both"])
async def test_what_is_wanted_is_delivered(
    server: Postfix | Sendmail, sink: Sink, portable: bool
) -> None:
    class ThisEditor(Editor):
        wanted: ClassVar[dict[int, Message]] = {}
        seen: ClassVar[set[Mta | None]] = set()
        wants_portable = portable

    before = sink.total
    numbers = range(MESSAGES * portable, MESSAGES * (1 + portable))
    async with (
        Server(ThisEditor, server.milter_address, config=Config(unix_mode=0o666)),
        SmtpClient.connect(server.smtp_port) as smtp,
    ):
        await smtp.ehlo()
        for number in numbers:
            recipients = Random(number).sample(["b", "c", "d", "B"], 2)
            replies = await smtp.pipeline(
                f"MAIL FROM:<m-{number}@src.example>",
                *(f"RCPT TO:<{local}@dst.example>" for local in recipients),
            )
            assert {reply.code for reply in replies} == {250}
            reply = await smtp.content(content_of(number))
            assert reply.code == 250, reply
    assert ThisEditor.seen == {server.kind}
    delivered = {
        int(one.body.split(b"\r\n")[0].removesuffix(b"new")): one
        for one in await deliveries(sink, before, len(numbers))
    }
    assert sorted(delivered) == list(numbers)
    found = [
        line
        for number in numbers
        for line in differences(number, ThisEditor.wanted[number], delivered[number])
    ]
    assert found == []


MISSING = {
    "From": "n@src.example",
    "Date": "Fri, 2 Jan 1970 00:00:00 +0000",
    "Message-Id": "<new@src.example>",
}


class Completer(Editor):
    """Gives each message a From, Date and Message-Id of its own."""

    wants_portable = False
    seen: ClassVar[set[Mta | None]] = set()

    def edit(self, message: Message) -> None:
        for name, value in MISSING.items():
            message.headers.replace(name, value)


class CompletingSendmail(Sendmail):
    """Adds missing headers, as with the mailers of the standard sendmail.cf."""

    def _write_config(self) -> None:
        super()._write_config()
        text = self._config_file.read_text()
        assert text.count("F=muXa8h") == 1
        self._config_file.write_text(text.replace("F=muXa8h", "F=DFMmuXa8h"))


@pytest.fixture(params=SERVERS)
def completing_server(
    request: pytest.FixtureRequest, sink: Sink, sendmail_root: Path
) -> Iterator[Postfix | Sendmail]:
    if request.param is Mta.POSTFIX:
        with Postfix(sink.port, settings={"always_add_missing_headers": "yes"}) as postfix:
            postfix.start()
            yield postfix
    else:
        with CompletingSendmail(sink.port, root=sendmail_root) as sendmail:
            yield sendmail


async def test_headers_that_the_server_would_add_are_there_once(
    completing_server: Postfix | Sendmail, sink: Sink
) -> None:
    class ThisCompleter(Completer):
        wanted: ClassVar[dict[int, Message]] = {}

    before = sink.total
    address = completing_server.milter_address
    async with (
        Server(ThisCompleter, address, config=Config(unix_mode=0o666)),
        SmtpClient.connect(completing_server.smtp_port) as smtp,
    ):
        await smtp.ehlo()
        await smtp.message(b"Subject: bare\r\n\r\nx\r\n", "m-0@src.example")
    (delivery,) = await deliveries(sink, before, 1)
    assert sorted(delivery.own_header_lines) == sorted(
        [b"Subject: bare", *(f"{name}: {value}".encode() for name, value in MISSING.items())]
    )
