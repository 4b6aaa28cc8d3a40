"""Ways of writing handlers, each against Postfix: observers, threads, skipping."""

import threading

import pytest

from aiomilter import EomActions, Milter, Reply, Status, no_reply
from tests.integration.journal import Journal
from tests.integration.rig import Rig

pytestmark = pytest.mark.xdist_group("postfix")

CONTENT = b"Subject: x\r\n\r\nbody\r\n"


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_observers_that_do_not_reply(rig: Rig, journal: Journal, listener: str) -> None:
    class Silent(Milter):
        @no_reply
        async def on_helo(self, hostname: str) -> None:
            journal.note("helo")

        @no_reply
        async def on_mail(self, sender: str, params: list[str]) -> None:
            journal.note("mail")

        @no_reply
        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            journal.note("rcpt")

        @no_reply
        async def on_data(self) -> None:
            journal.note("data")

        @no_reply
        async def on_header(self, name: str, value: str) -> None:
            journal.note("header")

        @no_reply
        async def on_eoh(self) -> None:
            journal.note("eoh")

        @no_reply
        async def on_body(self, chunk: bytes) -> None:
            journal.note("body")

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Events", ",".join(journal.names))

    async with rig.session(Silent, listener) as smtp:
        reply = await smtp.message(CONTENT, recipients=["b@dst.example", "c@dst.example"])
    delivery = await rig.delivery(reply)
    events = b"X-Events: helo,mail,rcpt,rcpt,data,header,eoh,body"
    assert delivery.own_header_lines[-1] == events


async def test_a_verdict_of_an_observer_is_dropped_and_the_message_goes_on(rig: Rig) -> None:
    class Confused(Milter):
        @no_reply
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            return Status.REJECT

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Seen", "yes")

    async with rig.session(Confused) as smtp:
        reply = await smtp.message(CONTENT)
        again = await smtp.message(CONTENT)
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Seen: yes"
    assert (await rig.delivery(again)).own_header_lines[-1] == b"X-Seen: yes"


async def test_plain_functions_run_in_a_thread_of_their_own(rig: Rig) -> None:
    threads: set[int] = set()

    class Blocking(Milter):
        def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
            threads.add(threading.get_ident())
            return Reply(550, "5.1.1", "no") if recipient.startswith("<no") else None

        def on_eom(self, actions: EomActions) -> Status:
            threads.add(threading.get_ident())
            actions.add_header("X-Thread", "yes")
            return Status.ACCEPT

    async with rig.session(Blocking) as smtp:
        await smtp.command("MAIL FROM:<a@src.example>")
        assert (await smtp.command("RCPT TO:<nobody@dst.example>")).code == 550
        assert (await smtp.command("RCPT TO:<b@dst.example>")).code == 250
        reply = await smtp.content(CONTENT)
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Thread: yes"
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("stage", ["rcpt", "header", "body"])
async def test_skip_means_no_more_events_of_this_kind_in_this_message(
    rig: Rig, journal: Journal, stage: str
) -> None:
    class Skipping(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            return self.noted("rcpt")

        async def on_header(self, name: str, value: str) -> Status:
            return self.noted("header")

        async def on_body(self, chunk: bytes) -> Status:
            return self.noted("body")

        async def on_eom(self, actions: EomActions) -> None:
            journal.note("eom")

        def noted(self, event: str) -> Status:
            journal.note(event)
            return Status.SKIP if event == stage else Status.CONTINUE

    content = b"A: 1\r\nB: 2\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 2000
    async with rig.session(Skipping) as smtp:
        replies = [
            await smtp.message(content, recipients=["b@dst.example", "c@dst.example"])
            for _ in range(2)
        ]
    for reply in replies:
        delivery = await rig.delivery(reply)
        assert delivery.content.endswith(content)
        assert delivery.recipients == ["<b@dst.example>", "<c@dst.example>"]
    # Two recipients, two headers, three packets of body; one of them where the rest is skipped.
    counts = {"rcpt": 2, "header": 2, "body": 3} | {stage: 1}
    one_message = [event for event, count in counts.items() for _ in range(count)] + ["eom"]
    assert journal.names == one_message * 2
