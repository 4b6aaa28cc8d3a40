"""Debian's miltertest as the MTA: what its scripts check is in `peers/*.lua`."""

from __future__ import annotations

from typing import Any

import pytest

from aiomilter import EomActions, Milter, Reply, SocketInfo, Status
from tests.aio.serving import Journal, serving
from tests.contrib.rig import address_of
from tests.integration.peers.miltertest import run_script

pytestmark = pytest.mark.xdist_group("peers")

STATUSES: dict[str, Any] = {
    "<reject@src.example>": Status.REJECT,
    "<tempfail@src.example>": Status.TEMPFAIL,
    "<discard@src.example>": Status.DISCARD,
    "<accept@src.example>": Status.ACCEPT,
    "<reply@src.example>": Reply(550, "5.1.8", "100% unknown", "really"),
}


class Editor(Milter):
    """Makes all edits, out of what it has seen of the message, and notes all."""

    journal: Journal

    def begin_message(self) -> None:
        self.subject = ""
        self.body = b""

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        # miltertest has one port for all clients.
        self.journal.note(f"connect {hostname} {client} {self.macros['j']}")

    async def on_helo(self, hostname: str) -> None:
        self.journal.note(f"helo {hostname}")

    async def on_unknown(self, command: str) -> None:
        self.journal.note(f"unknown {command}")

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.journal.note(f"mail {sender} {params} {self.macros['{auth_authen}']}")

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.journal.note(f"rcpt {recipient} {params}")

    async def on_data(self) -> None:
        self.journal.note("data")

    async def on_header(self, name: str, value: str) -> None:
        if name == "Subject":
            self.subject = value

    async def on_eoh(self) -> None:
        self.journal.note(f"eoh {self.subject}")

    async def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    async def on_eom(self, actions: EomActions) -> Status:
        number = len([entry for entry in self.journal.entries if entry.startswith("mail")]) - 1
        actions.add_header("X-Id", self.macros["i"])
        actions.insert_header(0, "X-Top", "first line\n\tsecond line")
        actions.change_header("Subject", 1, f"[{len(self.recipients)}] {self.subject}")
        actions.change_header("X-Remove", 1, None)
        actions.add_recipient("<d@dst.example>")
        actions.delete_recipient("<c@dst.example>")
        actions.replace_body(self.body.upper())
        actions.quarantine(f"held {number}")
        return Status.ACCEPT

    async def on_abort(self) -> None:
        self.journal.note("abort")

    async def on_close(self) -> None:
        self.journal.note("close")


async def test_all_stages() -> None:
    Editor.journal = journal = Journal()
    async with serving(Editor) as server:
        assert await run_script("stages", address_of(server)) == ["ID1", "ID2"]
        await journal.until("close")
    message = [
        "mail <a@src.example> ['SIZE=10', 'BODY=8BITMIME'] joe",
        "rcpt <b@dst.example> ['NOTIFY=NEVER']",
        "rcpt <c@dst.example> []",
        "data",
    ]
    assert journal.entries == [
        "connect client.example 192.0.2.1:12345 mx.test.example",
        "helo helo.example",
        "unknown XYZZY 1",
        *message,
        "eoh given up",
        "abort",
        *message,
        "eoh subject 1",
        *message,
        "eoh subject 2",
        "close",
    ]


async def test_replies() -> None:
    class Decider(Milter):
        journal = Journal()

        async def on_mail(self, sender: str, params: list[str]) -> Any:
            if sender == "<fault@src.example>":
                raise RuntimeError("a fault of the milter")
            return STATUSES.get(sender)

        async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
            return Reply(450, "4.2.1", "later") if recipient == "<reply@dst.example>" else None

        async def on_eom(self, actions: EomActions) -> Reply:
            return Reply(554, "5.7.1", "not this one")

        async def on_abort(self) -> None:
            self.journal.note("abort")

        async def on_close(self) -> None:
            self.journal.note("close")

    async with serving(Decider) as server:
        assert await run_script("replies", address_of(server)) == []
        await Decider.journal.until("close", 2)
    # The client that went away within its message has left it.
    assert Decider.journal.entries[-2:] == ["abort", "close"]
