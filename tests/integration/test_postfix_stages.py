"""What a milter behind Postfix is told at each stage."""

import pytest

from aiomilter import EomActions, Milter, SocketInfo, Status, macros, rejected_recipients
from tests.integration.journal import Journal
from tests.integration.postfix_config import REFUSED_RECIPIENT
from tests.integration.rig import Rig

pytestmark = pytest.mark.xdist_group("postfix")


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_every_stage_is_seen_in_order(rig: Rig, journal: Journal, listener: str) -> None:
    class Observer(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            journal.note("connect", hostname)

        async def on_helo(self, hostname: str) -> None:
            journal.note("helo", hostname)

        async def on_mail(self, sender: str, params: list[str]) -> None:
            journal.note("mail", sender, params)

        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            journal.note("rcpt", recipient, params)

        async def on_data(self) -> None:
            journal.note("data")

        async def on_header(self, name: str, value: str) -> None:
            journal.note("header", name, value)

        async def on_eoh(self) -> None:
            journal.note("eoh")

        async def on_body(self, chunk: bytes) -> None:
            journal.note("body", chunk)

        async def on_eom(self, actions: EomActions) -> None:
            journal.note("eom")

        async def on_abort(self) -> None:
            journal.note("abort")

        async def on_close(self) -> None:
            journal.note("close")

    async with rig.session(Observer, listener) as smtp:
        await smtp.command("MAIL FROM:<a@src.example> SIZE=1000 BODY=8BITMIME")
        await smtp.command("RCPT TO:<b@dst.example> NOTIFY=NEVER")
        await smtp.command("RCPT TO:<c@dst.example>")
        reply = await smtp.content(b"Subject: one\r\nX-Fold: a\r\n\tb \r\n\r\nbody\r\n")
    await journal.until("close")
    assert journal.events == [
        ("connect", "[127.0.0.1]"),
        ("helo", "client.example"),
        ("mail", "<a@src.example>", ["SIZE=1000", "BODY=8BITMIME"]),
        ("rcpt", "<b@dst.example>", ["NOTIFY=NEVER"]),
        ("rcpt", "<c@dst.example>", []),
        ("data",),
        ("header", "Subject", "one"),
        ("header", "X-Fold", "a\n\tb "),
        ("eoh",),
        ("body", b"body\r\n"),
        ("eom",),
        ("close",),
    ]
    delivery = await rig.delivery(reply)
    assert delivery.recipients == ["<b@dst.example>", "<c@dst.example>"]
    assert "NOTIFY=NEVER" in delivery.recipient_params["<b@dst.example>"]
    assert delivery.own_header_lines == [b"Subject: one", b"X-Fold: a\r\n\tb "]


class ClientObserver(Milter):
    """Notes what it is told of the client."""

    journal: Journal

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.journal.note("connect", hostname, client)


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_the_address_and_port_of_the_client(
    rig: Rig, journal: Journal, listener: str
) -> None:
    class Observer(ClientObserver):
        pass

    Observer.journal = journal
    async with rig.session(Observer, listener) as smtp:
        local_port = smtp.local_port
    [(hostname, client)] = journal.facts("connect")
    assert isinstance(client, SocketInfo)
    assert hostname == "[127.0.0.1]"
    assert str(client.ip) == "127.0.0.1"
    assert client.port == local_port
    assert "127.0.0.1" in str(client)


async def test_a_client_with_a_name_and_an_ipv6_address(rig: Rig, journal: Journal) -> None:
    class Observer(ClientObserver):
        pass

    Observer.journal = journal
    async with rig.session(Observer) as smtp:
        claim = "XCLIENT NAME=six.client.example ADDR=IPV6:2001:db8::25 PORT=4711"
        assert (await smtp.command(claim)).code == 220
    hostname, client = journal.facts("connect")[-1]
    assert isinstance(client, SocketInfo)
    assert hostname == "six.client.example"
    assert (str(client.ip), client.port) == ("2001:db8::25", 4711)


async def test_a_client_whose_address_postfix_does_not_know(rig: Rig, journal: Journal) -> None:
    class Observer(ClientObserver):
        pass

    Observer.journal = journal
    async with rig.session(Observer) as smtp:
        assert (await smtp.command("XCLIENT NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE]")).code == 220
        await smtp.ehlo()
        reply = await smtp.message(b"Subject: from nowhere\r\n\r\nbody\r\n")
    assert (await rig.delivery(reply)).body == b"body\r\n"
    hostname, client = journal.facts("connect")[-1]
    assert isinstance(client, SocketInfo)
    assert hostname == "unknown"
    assert "unknown" in str(client)


async def test_the_facts_that_the_library_keeps(rig: Rig, journal: Journal) -> None:
    class Keeper(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            journal.note("eom", self.hostname, self.helo_name, self.sender, list(self.recipients))
            journal.note("client", str(self.client))
            journal.note("queue id", self.queue_id)

        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            pass

        async def on_helo(self, hostname: str) -> None:
            pass

        async def on_mail(self, sender: str, params: list[str]) -> None:
            pass

        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            pass

    async with rig.session(Keeper) as smtp:
        reply = await smtp.message(b"\r\n", recipients=["b@dst.example", "c@dst.example"])
    await rig.delivery(reply)
    assert journal.facts("eom") == [
        (
            "[127.0.0.1]",
            "client.example",
            "<a@src.example>",
            ["<b@dst.example>", "<c@dst.example>"],
        )
    ]
    assert "127.0.0.1" in str(journal.facts("client")[0][0])
    assert journal.facts("queue id") == [(reply.queue_id,)]


async def test_the_macros_of_each_stage(rig: Rig, journal: Journal) -> None:
    class MacroReader(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            journal.note("connect", self.macros["j"], self.macros["{j}"], self.macros["_"])

        async def on_mail(self, sender: str, params: list[str]) -> None:
            journal.note("mail", self.macros["{mail_addr}"], "{rcpt_addr}" in self.macros)
            journal.note("queue id at mail", self.queue_id)

        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            journal.note("rcpt", self.macros["{rcpt_addr}"], self.macros["{mail_addr}"])

        async def on_eom(self, actions: EomActions) -> None:
            journal.note("eom", self.macros["i"], self.macros["j"], self.macros.get("{none}"))

    async with rig.session(MacroReader) as smtp:
        first = await smtp.message(b"\r\n", recipients=["b@dst.example", "c@dst.example"])
        second = await smtp.message(b"\r\n", sender="second@src.example")
    host = "mx.test.example"
    assert journal.facts("connect") == [(host, host, "unknown [127.0.0.1]")]
    assert journal.facts("mail") == [("a@src.example", False), ("second@src.example", False)]
    assert journal.facts("rcpt") == [
        ("b@dst.example", "a@src.example"),
        ("c@dst.example", "a@src.example"),
        ("b@dst.example", "second@src.example"),
    ]
    assert journal.facts("eom") == [(first.queue_id, host, None), (second.queue_id, host, None)]
    # Postfix opens a queue file with the first recipient; the id of the message before is not ours.
    assert journal.facts("queue id at mail") == [(None,), (None,)]


async def test_macros_that_are_asked_for_at_a_stage(rig: Rig, journal: Journal) -> None:
    class Asker(Milter):
        @macros("{client_addr}", "{client_port}")
        async def on_helo(self, hostname: str) -> None:
            journal.note("helo", self.macros["{client_addr}"], self.macros["{client_port}"])

        async def on_mail(self, sender: str, params: list[str]) -> None:
            journal.note("mail", self.macros["{mail_addr}"])

    async with rig.session(Asker) as smtp:
        local_port = smtp.local_port
        reply = await smtp.message(b"Subject: x\r\n\r\n")
    await rig.delivery(reply)
    assert journal.facts("helo") == [("127.0.0.1", str(local_port))]
    # No list was sent for MAIL, so Postfix's own stays.
    assert journal.facts("mail") == [("a@src.example",)]


@pytest.mark.parametrize("wanted", [True, False])
async def test_recipients_that_postfix_itself_refuses(
    rig: Rig, journal: Journal, wanted: bool
) -> None:
    class Plain(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            journal.note("rcpt", recipient, self.macros.get("{rcpt_mailer}"))
            return Status.CONTINUE

    class Curious(Plain):
        @rejected_recipients
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            return await super().on_rcpt(recipient, params)

    async with rig.session(Curious if wanted else Plain) as smtp:
        await smtp.command("MAIL FROM:<a@src.example>")
        assert (await smtp.command(f"RCPT TO:<{REFUSED_RECIPIENT}>")).code == 554
        assert (await smtp.command("RCPT TO:<b@dst.example>")).code == 250
        reply = await smtp.content(b"Subject: x\r\n\r\n")
    assert (await rig.delivery(reply)).recipients == ["<b@dst.example>"]
    refused = [(f"<{REFUSED_RECIPIENT}>", "error")] if wanted else []
    assert journal.facts("rcpt") == [*refused, ("<b@dst.example>", "smtp")]
