"""How a milter's session follows the SMTP session: several messages, resets, lost clients."""

import asyncio

import pytest

from aiomilter import EomActions, Milter, Reply
from tests.integration.journal import Journal
from tests.integration.rig import Rig
from tests.integration.smtp import SmtpClient

pytestmark = pytest.mark.xdist_group("postfix")

CONTENT = b"Subject: x\r\n\r\nbody\r\n"


class Noting(Milter):
    """Notes the events that begin and end messages and sessions."""

    journal: Journal

    def begin_message(self) -> None:
        self.journal.note("begin")

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.journal.note("mail", sender)

    async def on_eom(self, actions: EomActions) -> None:
        self.journal.note("eom")

    async def on_abort(self) -> None:
        self.journal.note("abort")

    async def on_close(self) -> None:
        self.journal.note("close")


@pytest.fixture
def noting(journal: Journal) -> type[Noting]:
    """A milter class that writes into the journal of this test."""

    class Bound(Noting):
        pass

    Bound.journal = journal
    return Bound


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_each_message_of_a_session_starts_afresh(
    rig: Rig, journal: Journal, listener: str
) -> None:
    class Counter(Milter):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            type(self).made += 1

        def begin_message(self) -> None:
            self.count = 0

        async def on_mail(self, sender: str, params: list[str]) -> None:
            journal.note("mail", sender, list(self.recipients), self.macros.get("{rcpt_addr}"))

        async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
            if recipient == "<nobody@dst.example>":
                return Reply(550, "5.1.1", "no such user")
            self.count += 1
            return None

        async def on_eom(self, actions: EomActions) -> None:
            journal.note("eom", list(self.recipients))
            actions.add_header("X-Recipient-Count", str(self.count))

    async with rig.session(Counter, listener) as smtp:
        first = await smtp.message(CONTENT, recipients=["b@dst.example", "c@dst.example"])
        await smtp.command("MAIL FROM:<second@src.example>")
        await smtp.command("RCPT TO:<nobody@dst.example>")
        await smtp.command("RCPT TO:<d@dst.example>")
        second = await smtp.content(CONTENT)
    assert Counter.made == 1
    assert (await rig.delivery(first)).own_header_lines[-1] == b"X-Recipient-Count: 2"
    assert (await rig.delivery(second)).own_header_lines[-1] == b"X-Recipient-Count: 1"
    assert [facts[0] for facts in journal.facts("mail")] == [
        "<a@src.example>",
        "<second@src.example>",
    ]
    assert all(facts[1:] == ([], None) for facts in journal.facts("mail"))
    assert journal.facts("eom")[0] == (["<b@dst.example>", "<c@dst.example>"],)


async def test_many_sessions_at_once_keep_apart(rig: Rig) -> None:
    class Echo(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            self.name = sender

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Sender", self.name)

    async def one_session(number: int) -> None:
        async with SmtpClient.connect(rig.postfix.port("unix")) as smtp:
            await smtp.ehlo()
            for letter in "xyz":
                address = f"{letter}{number}@src.example"
                reply = await smtp.message(CONTENT, sender=address)
                delivery = await rig.delivery(reply)
                assert delivery.own_header_lines[-1] == f"X-Sender: <{address}>".encode()

    async with rig.milter(Echo), asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(one_session(number))


async def test_a_finished_message_is_not_aborted(
    rig: Rig, journal: Journal, noting: type[Noting]
) -> None:
    async with rig.session(noting) as smtp:
        await smtp.message(CONTENT)
        await smtp.message(CONTENT)
    await journal.until("close")
    assert journal.names == ["begin", "mail", "eom", "begin", "mail", "eom", "close"]


@pytest.mark.parametrize("command", ["RSET", "EHLO client.example", "HELO client.example"])
@pytest.mark.parametrize("with_recipient", [True, False])
async def test_a_reset_aborts_the_message_once(
    rig: Rig, journal: Journal, noting: type[Noting], command: str, with_recipient: bool
) -> None:
    async with rig.session(noting) as smtp:
        await smtp.command("MAIL FROM:<reset@src.example>")
        if with_recipient:
            await smtp.command("RCPT TO:<b@dst.example>")
        assert (await smtp.command(command)).code == 250
        # Not waited for here: the abort lies in Postfix's buffer until there is more to send.
        reply = await smtp.message(CONTENT)
    await rig.delivery(reply)
    await journal.until("close")
    assert journal.names == ["begin", "mail", "abort", "begin", "mail", "eom", "close"]


async def test_quit_in_a_message_aborts_it_once(
    rig: Rig, journal: Journal, noting: type[Noting]
) -> None:
    async with rig.session(noting) as smtp:
        await smtp.command("MAIL FROM:<quit@src.example>")
        await smtp.command("RCPT TO:<b@dst.example>")
    await journal.until("close")
    assert journal.names == ["begin", "mail", "abort", "close"]


async def test_a_client_lost_in_data_aborts_the_message_once(
    rig: Rig, journal: Journal, noting: type[Noting]
) -> None:
    async with rig.session(noting) as smtp:
        await smtp.command("MAIL FROM:<lost@src.example>")
        await smtp.command("RCPT TO:<b@dst.example>")
        assert (await smtp.command("DATA")).code == 354
        await smtp.send(b"Subject: half a mess")
        await smtp.close()
        await journal.until("close")
    assert journal.names == ["begin", "mail", "abort", "close"]


async def test_a_session_without_a_message_is_closed_once(
    rig: Rig, journal: Journal, noting: type[Noting]
) -> None:
    async with rig.session(noting):
        pass
    await journal.until("close")
    assert journal.names == ["close"]


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_an_unknown_command_in_a_message_does_not_lose_it(
    rig: Rig, journal: Journal, listener: str
) -> None:
    class Listener(Milter):
        async def on_unknown(self, command: str) -> Reply | None:
            journal.note("unknown", command)
            return Reply(502, "5.5.2", "not that") if command == "XODD" else None

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Seen", "yes")

    async with rig.session(Listener, listener) as smtp:
        await smtp.command("MAIL FROM:<a@src.example>")
        await smtp.command("RCPT TO:<b@dst.example>")
        refused = await smtp.command("XODD")
        assert (await smtp.command("XFREE")).code in (500, 502)
        reply = await smtp.content(CONTENT)
    assert (refused.code, refused.text) == (502, "5.5.2 not that")
    assert journal.facts("unknown") == [("XODD",), ("XFREE",)]
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Seen: yes"
