"""Random edits of whole messages, made by a real Postfix and a real Sendmail.

A plain milter collects each message, edits it as the number in its sender says, and asks for what
`plan_edits` has come to. What is delivered has to be what the milter wanted, header for header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

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
from tests.app.message.edits import NAMES, edit_randomly, random_headers
from tests.app.message.test_diff import edit_envelope

MESSAGES = 300
FIXED = [
    ("From", "a@src.example"),
    ("Date", "Thu, 1 Jan 1970 00:00:00 +0000"),
    ("Message-Id", "<1@src.example>"),
]


class Editor(Milter):
    """Edits each message at random, and notes what it wants to be delivered."""

    wanted: dict[int, Message]
    wants_portable: bool
    seen: set[Mta | None]

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
        edit(number, message)
        mta = None if self.wants_portable else detect_mta(self.macros)
        plan = plan_edits(message, mta)
        plan.apply(actions)
        self.wanted[number] = message


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


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.xdist_group(kind.value)) for kind in Mta]
)
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


@pytest.mark.parametrize("portable", [False, True], ids=["for-this-one", "for-both"])
async def test_what_is_wanted_is_delivered(
    server: Postfix | Sendmail, sink: Sink, portable: bool
) -> None:
    class ThisEditor(Editor):
        wanted: dict[int, Message] = {}
        wants_portable = portable
        seen: set[Mta | None] = set()

    before = sink.total
    numbers = range(MESSAGES // 2 * portable, MESSAGES // 2 * (1 + portable))
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
    async with asyncio.timeout(20):
        while sink.total < before + len(numbers):
            await asyncio.sleep(0.05)
    assert ThisEditor.seen == {server.kind}
    delivered = {
        int(one.body.split(b"\r\n")[0].removesuffix(b"new")): one for one in sink.since(before)
    }
    assert sorted(delivered) == list(numbers)
    found = [
        line
        for number in numbers
        for line in differences(number, ThisEditor.wanted[number], delivered[number])
    ]
    assert found == []
