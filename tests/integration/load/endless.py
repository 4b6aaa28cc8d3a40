"""A handler that never ends, at every stage at the same time, behind either mail server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiomilter import Config, EomActions, Milter, Server, SocketInfo
from aiomilter.testing.servers import Mta
from aiomilter.testing.servers.sink import Sink
from aiomilter.testing.servers.smtp import SmtpClient, dot_stuffed
from tests.integration.load.servers import complaints, mail_server

__all__ = ["STAGES", "Waited", "wait_everywhere"]

STAGES = ("connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom", "unknown")

_CONTENT = b"Subject: kept\r\n\r\nbody\r\n"


class Endless(Milter):
    """Waits for ever where the client says: in its HELO name or its envelope sender."""

    def __init__(self, *, is_first: bool) -> None:
        self._is_first = is_first

    async def at(self, stage: str) -> None:
        """Wait, if this is the place for it."""
        if (self.sender or "").startswith(f"<{stage}@"):
            await asyncio.Event().wait()

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        if self._is_first:
            await asyncio.Event().wait()

    async def on_helo(self, hostname: str) -> None:
        if hostname.startswith("helo."):
            await asyncio.Event().wait()

    async def on_mail(self, sender: str, params: list[str]) -> None:
        await self.at("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        await self.at("rcpt")

    async def on_data(self) -> None:
        await self.at("data")

    async def on_header(self, name: str, value: str) -> None:
        await self.at("header")

    async def on_eoh(self) -> None:
        await self.at("eoh")

    async def on_body(self, chunk: bytes) -> None:
        await self.at("body")

    async def on_eom(self, actions: EomActions) -> None:
        await self.at("eom")

    async def on_unknown(self, command: str) -> None:
        if command.startswith("WAIT"):
            await asyncio.Event().wait()


@dataclass(slots=True)
class Waited:
    """What came of a handler that never ends at each stage.

    Attributes:
        refusals: The first reply above 400 of each session, by stage.
        seconds: How long it took to come.
        after: The code that the next message of the same session got; 0 if there was none.
        complaints: What the mail server's log says of the milter.
    """

    refusals: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


async def wait_everywhere(
    kind: Mta, config: Config, settings: Mapping[str, str], patience_s: float
) -> Waited:
    """Have a handler that never ends at each stage, in sessions of their own.

    Args:
        kind: The mail server.
        config: The budgets.
        settings: The mail server's own limits of time.
        patience_s: How long a client waits for a reply.
    """
    waited = Waited()
    has_begun = asyncio.Event()

    def factory() -> Milter:
        is_first = not has_begun.is_set()
        has_begun.set()
        return Endless(is_first=is_first)

    with Sink() as sink, mail_server(kind, sink, settings) as server:
        async with (
            Server(factory, server.milter_address, config=config),
            asyncio.TaskGroup() as group,
        ):
            for stage in STAGES:
                group.create_task(_session(server.smtp_port, stage, waited, patience_s))
                # The first milter is the one that waits at the connection.
                await has_begun.wait()
        waited.complaints = complaints(server)
    return waited


async def _session(port: int, stage: str, waited: Waited, patience_s: float) -> None:
    began = time.monotonic()
    smtp = await SmtpClient.open(port, patience_s)
    try:
        # Postfix greets first and asks its milter then, Sendmail the other way round.
        replies = [(await smtp.reply()).code]
        name = "helo.example" if stage == "helo" else "client.example"
        lines = [f"EHLO {name}", f"MAIL FROM:<{stage}@src.example>", "RCPT TO:<b@dst.example>"]
        if stage == "unknown":
            lines.insert(1, "WAIT")
        for line in (*lines, "DATA"):
            reply = await smtp.command(line)
            replies.append(reply.code)
            if reply.code >= 400:
                break
        else:
            await smtp.send(dot_stuffed(_CONTENT))
            reply = await smtp.reply()
        waited.refusals[stage] = f"{reply.code} {reply.text}"
        waited.seconds[stage] = time.monotonic() - began
        await smtp.command("RSET")
        try:
            after = await smtp.until_refused(_CONTENT)
            waited.after[stage] = after.code
        except ConnectionError:
            waited.after[stage] = 0
    finally:
        await smtp.quit()
