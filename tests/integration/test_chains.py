"""Several milters as one, behind a real Postfix and a real Sendmail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiomilter import EomActions, Message, Milter, Reply, Status, chain, dry_run
from aiomilter.testing.servers import MailServers, Mta, load_case


@pytest.fixture(scope="module")
def servers(sendmail_root: Path) -> Iterator[MailServers]:
    with MailServers(sendmail_root=sendmail_root) as servers:
        yield servers


class Gatekeeper(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | Status | None:
        match recipient:
            case "<gone@dst.example>":
                return Reply(550, "5.1.1", "gone")
            case "<trap@dst.example>":
                return Status.DISCARD
            case _:
                return None


class Greylist(Milter):
    """Wants nothing but recipients."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Status | None:
        if recipient in ("<new@dst.example>", "<trap@dst.example>"):
            return Status.TEMPFAIL
        return Status.ACCEPT if recipient == "<known@dst.example>" else None


class Rewrites(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.replace("Subject", f"[{len(message.recipients)}] new")
        message.headers.remove("X-Old")
        message.body.replace(message.body.read().upper())


class Pieces(Milter):
    def begin_message(self) -> None:
        self.seen = ""

    async def on_header(self, name: str, value: str) -> None:
        if name in ("Subject", "X-Old"):
            self.seen += f"{name}={value} "

    def on_body(self, chunk: bytes) -> None:
        self.seen += chunk.decode().strip()

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Seen", self.seen)


class Refuses(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
        return Status.REJECT

    async def on_message(self, message: Message) -> Status:
        message.body.replace(b"nothing of it")
        return Status.REJECT


FILTERS = chain(Gatekeeper, dry_run(Refuses), chain(Greylist, Rewrites), Pieces)

MESSAGE = """\
From: a@src.example
Date: Thu, 1 Jan 1970 00:00:00 +0000
Message-Id: <1@src.example>
Subject: old
X-Old: 1

body
"""
DELIVERED = """\
Received: {{{{any}}}}
From: a@src.example
Date: Thu, 1 Jan 1970 00:00:00 +0000
Message-Id: <1@src.example>
Subject: [{count}] new
X-Seen: Subject=[{count}] new BODY

BODY
"""
CASE = f"""\
Several milters as one.

SETTINGS

== message
{MESSAGE}
== smtp
C: EHLO client.example
S: 250
C: MAIL FROM:<a@src.example>
S: 250
C: RCPT TO:<gone@dst.example>
S: 550
C: RCPT TO:<new@dst.example>
S: 451
C: RCPT TO:<known@dst.example>
S: 250
C: RCPT TO:<other@dst.example>
S: 250
C: DATA
S: 354
C: {{{{message}}}}
S: 250
C: MAIL FROM:<a@src.example>
S: 250
C: RCPT TO:<other@dst.example>
S: 250
C: RCPT TO:<trap@dst.example>
S: 451
C: RCPT TO:<known@dst.example>
S: 250
C: DATA
S: 354
C: {{{{message}}}}
S: 250
C: MAIL FROM:<a@src.example>
S: 250
C: RCPT TO:<other@dst.example>
S: 250
C: DATA
S: 354
C: {{{{message}}}}
S: 250

== delivered
from <a@src.example>
to <known@dst.example>
to <other@dst.example>

{DELIVERED.format(count=2)}
== delivered
from <a@src.example>
to <other@dst.example>

{DELIVERED.format(count=1)}"""


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        pytest.param(kind, settings, id=name, marks=pytest.mark.xdist_group(f"cases-{kind.value}"))
        for name, kind, settings in [
            ("postfix", Mta.POSTFIX, ""),
            ("sendmail", Mta.SENDMAIL, ""),
            *(
                (f"postfix-{version}", Mta.POSTFIX, f"postfix: milter_protocol = {version}")
                for version in (2, 3, 4)
            ),
        ]
    ],
)
async def test_a_chain_decides_and_edits(
    kind: Mta, settings: str, servers: MailServers, tmp_path: Path
) -> None:
    path = tmp_path / "chain.case"
    section = f"== settings\n{settings}" if settings else ""
    path.write_text(CASE.replace("SETTINGS", section))
    result = await servers.run(load_case(path), kind, FILTERS)
    result.assert_passed()
