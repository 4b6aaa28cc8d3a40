"""How SMTP sessions and connections to milters go together, from the first command to the last."""

from __future__ import annotations

import asyncio
import smtplib
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from aiomilter import ConfigError, EomActions, Status
from aiomilter.contrib.aiosmtpd import MilterHandler
from aiomilter.testing.servers.ports import ReservedPort
from aiomilter.testing.servers.smtp import SmtpClient
from tests.aio.serving import serving, until_true
from tests.contrib.rig import HOSTNAME, MESSAGE, Inbox, Rig, address_of, decider

MESSAGE_EVENTS = ["mail", "rcpt", "data", "header", "header", "eoh", "body", "eom"]


async def test_messages_of_a_session_share_a_connection() -> None:
    milter = decider()
    async with Rig.session(milter) as (rig, smtp):
        for _ in range(3):
            assert (await smtp.message(MESSAGE)).code == 250
        assert rig.connections == 1
        await smtp.quit()
        await milter.journal.until("close")
        assert milter.journal.entries == ["connect", "helo", *MESSAGE_EVENTS * 3, "close"]
        assert len({mail.queue_id for mail in rig.inbox.mails}) == 3


async def test_sessions_have_connections_of_their_own() -> None:
    async with (
        Rig.running(decider(), decider()) as rig,
        SmtpClient.connect(rig.port) as one,
        SmtpClient.connect(rig.port) as two,
    ):
        assert rig.connections == 0
        await one.ehlo()
        assert rig.connections == 2
        await two.ehlo()
        assert rig.connections == 4
        assert (await two.message(MESSAGE)).code == 250
        await two.quit()
        await until_true(lambda: rig.connections == 2)
        assert (await one.message(MESSAGE)).code == 250
        await one.close()
        await until_true(lambda: rig.connections == 0)


async def test_rset_gives_up_the_message() -> None:
    milter = decider()
    async with Rig.session(milter) as (_, smtp):
        await smtp.pipeline("MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>")
        assert (await smtp.command("RSET")).code == 250
        assert (await smtp.command("RSET")).code == 250
        assert (await smtp.message(MESSAGE)).code == 250
        assert milter.journal.entries == [
            "connect",
            "helo",
            "mail",
            "rcpt",
            "abort",
            *MESSAGE_EVENTS,
        ]


@pytest.mark.parametrize("command", ["EHLO", "HELO"])
async def test_second_greeting_gives_up_the_message(command: str) -> None:
    milter = decider()
    async with Rig.session(milter) as (_, smtp):
        await smtp.pipeline("MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>")
        assert (await smtp.command(f"{command} again.example")).code == 250
        assert (await smtp.command("DATA")).code == 503
        await smtp.quit()
        await milter.journal.until("close")
        expected = ["connect", "helo", "mail", "rcpt", "abort", "helo", "close"]
        assert milter.journal.entries == expected


async def test_quit_within_a_message_gives_it_up() -> None:
    milter = decider()
    async with Rig.session(milter) as (_, smtp):
        await smtp.command("MAIL FROM:<a@src.example>")
        await smtp.quit()
        await milter.journal.until("close")
        assert milter.journal.entries == ["connect", "helo", "mail", "abort", "close"]


async def test_content_that_is_too_large_gives_up_the_message() -> None:
    milter = decider()
    async with Rig.session(milter, smtp={"data_size_limit": 1_000}) as (rig, smtp):
        assert (await smtp.message(MESSAGE + 2 * (b"x" * 900 + b"\r\n"))).code == 552
        assert (await smtp.command("RCPT TO:<b@dst.example>")).code == 503
        assert (await smtp.message(MESSAGE)).code == 250
        assert milter.journal.entries.count("abort") == 1
        assert len(rig.inbox.mails) == 1


@pytest.mark.parametrize(
    "last", [(), ("EHLO x",), ("EHLO x", "MAIL FROM:<a@src.example>"), ("DATA",), ("content",)]
)
async def test_lost_client_leaves_no_connection(last: tuple[str, ...]) -> None:
    milter, other = decider(), decider()
    async with Rig.running(milter, other) as rig, SmtpClient.connect(rig.port) as smtp:
        if last in (("DATA",), ("content",)):
            await smtp.pipeline("EHLO x", "MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>")
            await smtp.command("DATA")
        elif last:
            await smtp.pipeline(*last)
        if last == ("content",):
            await smtp.send(b"Subject: half a mess")
        await smtp.close()
        if last:
            await milter.journal.until("close")
            await other.journal.until("close")
        await until_true(lambda: rig.connections == 0)
        assert rig.inbox.mails == []
        assert milter.journal.entries.count("abort") == ("mail" in milter.journal.entries)


async def test_client_lost_while_a_milter_thinks() -> None:
    class Thinker(decider()):  # type: ignore[misc]  # made for this test
        async def on_eom(self, actions: EomActions) -> Status:
            self.journal.note("thinks")
            await asyncio.Event().wait()
            return Status.ACCEPT

    other = decider()
    async with Rig.session(other, Thinker) as (rig, smtp):
        await smtp.pipeline("MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>", "DATA")
        await smtp.send(MESSAGE + b".\r\n")
        await Thinker.journal.until("thinks")
        await smtp.close()
        await until_true(lambda: rig.connections == 0)
        assert rig.inbox.mails == []


async def test_handler_that_fails_does_not_open_a_way_around_the_milters() -> None:
    class Failing(Inbox):
        async def handle_DATA(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope
        ) -> str:
            raise RuntimeError("disk full")

        async def handle_exception(self, error: Exception) -> str:
            return f"451 {error}"

    milter = decider()
    async with Rig.session(milter, inbox=Failing()) as (_, smtp):
        assert (await smtp.message(MESSAGE)).text == "disk full"
        assert (await smtp.command("DATA")).code == 503
        assert (await smtp.message(MESSAGE)).text == "disk full"
        assert milter.journal.entries.count("eom") == 2


async def test_hooks_of_the_handler_are_called_first() -> None:
    called: list[str] = []

    class Hooked(Inbox):
        async def handle_HELO(self, server: Any, session: Any, envelope: Any, name: str) -> str:  # noqa: N802
            called.append("HELO")
            session.host_name = name
            return "250 hooked"

        async def handle_EHLO(  # noqa: N802
            self, server: Any, session: Any, envelope: Any, name: str, responses: list[str]
        ) -> list[str]:
            called.append("EHLO")
            session.host_name = name
            return ["250-X-HOOKED", *responses[1:]]

        async def handle_MAIL(  # noqa: N802
            self, server: Any, session: Any, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            called.append("MAIL")
            if address == "no@src.example":
                return "550 hooked"
            envelope.mail_from = address
            return "250 hooked"

        async def handle_RCPT(  # noqa: N802
            self, server: Any, session: Any, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            called.append("RCPT")
            if address == "no@dst.example":
                return "550 hooked"
            envelope.rcpt_tos.append(address.upper())
            return "250 hooked"

        async def handle_RSET(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            called.append("RSET")
            return "250 hooked"

        async def handle_NOOP(self, server: Any, session: Any, envelope: Any, arg: str) -> str:  # noqa: N802
            return "250 nooped"

        async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            called.append("QUIT")
            return "221 hooked"

    milter = decider()
    async with Rig.session(milter, inbox=Hooked()) as (rig, smtp):
        for line, code, text in (
            ("EHLO x", 250, "X-HOOKED"),
            ("HELO x", 250, "hooked"),
            ("NOOP", 250, "nooped"),
            ("RSET", 250, "hooked"),
            ("MAIL FROM:<no@src.example>", 550, "hooked"),
            ("MAIL FROM:<a@src.example>", 250, "hooked"),
            ("RCPT TO:<no@dst.example>", 550, "hooked"),
            ("RCPT TO:<b@dst.example>", 250, "hooked"),
        ):
            reply = await smtp.command(line)
            assert (reply.code, reply.lines[0]) == (code, text)
        await smtp.content(MESSAGE)
        assert rig.inbox.mails[0].recipients == ["B@DST.EXAMPLE"]
        assert (await smtp.command("QUIT")).text == "hooked"
        assert called == ["EHLO", "EHLO", "HELO", "RSET", "MAIL", "MAIL", "RCPT", "RCPT", "QUIT"]
        assert [name for name in milter.journal.entries if name in ("mail", "rcpt")] == [
            "mail",
            "rcpt",
        ]


async def test_without_a_milter_mail_passes() -> None:
    async with Rig.session() as (rig, smtp):
        assert (await smtp.message(MESSAGE)).text == "2.0.0 kept"
        assert rig.inbox.mails[0].content == MESSAGE


async def test_controller_and_smtplib() -> None:
    milter, inbox = decider(), Inbox()

    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail("a@src.example", ["b@dst.example"], MESSAGE)

    async with serving(milter) as server:
        with ReservedPort() as port:
            handler = MilterHandler(inbox, address_of(server))
            controller = Controller(handler, hostname="127.0.0.1", port=port.number)
            await asyncio.to_thread(controller.start)
            try:
                await asyncio.to_thread(send, port.number)
            finally:
                await asyncio.to_thread(controller.stop)
        await milter.journal.until("close")
    assert [mail.content for mail in inbox.mails] == [MESSAGE]


@pytest.mark.parametrize(
    ("handler", "milters", "settings", "text"),
    [
        (Inbox(), ["inet:"], {}, "inet:"),
        (Inbox(), [], {"on_failure": "drop"}, "tempfail, accept, reject, not 'drop'"),
        (object(), [], {}, "object has no handle_DATA"),
    ],
    ids=["address", "failure", "handler"],
)
def test_what_cannot_work_is_refused(
    handler: object, milters: list[str], settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        MilterHandler(handler, *milters, **settings)


def test_outdated_hook_is_refused() -> None:
    class Outdated(Inbox):
        async def handle_EHLO(self, server: Any, session: Any, envelope: Any, name: str) -> str:  # noqa: N802
            return "250 HELP"

    with pytest.raises(ConfigError, match=r"Outdated\.handle_EHLO takes no list of responses"):
        MilterHandler(Outdated())


async def test_names_with_a_nul_are_refused() -> None:
    milter = decider()
    async with Rig.running(milter) as rig, SmtpClient.connect(rig.port) as smtp:
        assert (await smtp.command("EHLO a\0b")).code == 501
        assert milter.journal.entries == []
        assert (await smtp.ehlo()).code == 250
        for line in ('MAIL FROM:<"a\0b"@src.example>', 'MAIL FROM:<"a\rb"@src.example>'):
            assert (await smtp.command(line)).code == 553
        await smtp.command("MAIL FROM:<a@src.example>")
        assert (await smtp.command('RCPT TO:<"a\0b"@dst.example>')).code == 553
        assert "rcpt" not in milter.journal.entries


async def test_server_that_does_not_insist_on_a_greeting() -> None:
    class Lax(SMTP):
        async def check_helo_needed(self, helo: str = "HELO") -> bool:
            return False

    milter, inbox = decider(), Inbox()
    async with serving(milter) as server:
        handler = MilterHandler(inbox, address_of(server))
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: Lax(handler, hostname=HOSTNAME, loop=loop), "127.0.0.1", 0
        )
        try:
            port = listener.sockets[0].getsockname()[1]
            async with SmtpClient.connect(port) as smtp:
                assert (await smtp.message(MESSAGE)).code == 250
        finally:
            listener.close()
        assert milter.journal.entries[:2] == ["connect", "mail"]
        assert len(inbox.mails) == 1


async def test_handler_that_answers_for_an_envelope_of_its_own_gets_no_unfiltered_mail() -> None:
    class Smuggler(Inbox):
        async def handle_NOOP(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope, arg: str
        ) -> str:
            envelope.mail_from = "smuggled@src.example"
            envelope.rcpt_tos = ["b@dst.example"] if arg else []
            return "250 OK"

    async with Rig.session(decider(), inbox=Smuggler()) as (rig, smtp):
        await smtp.command("NOOP")
        assert (await smtp.command("RCPT TO:<b@dst.example>")).code == 503
        await smtp.command("NOOP recipient")
        assert (await smtp.content(MESSAGE)).code == 503
        assert rig.inbox.mails == []
