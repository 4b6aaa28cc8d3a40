"""An SMTP server of aiosmtpd, milters behind it, and a handler that keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from aiomilter import EomActions, Milter, Server
from aiomilter.contrib.aiosmtpd import FilteredEnvelope, MilterHandler
from aiomilter.testing.servers.smtp import SmtpClient
from tests.aio.serving import Recorder, recorder, serving

__all__ = ["HOSTNAME", "MESSAGE", "Decider", "Inbox", "Rig", "address_of", "decider", "listening"]

HOSTNAME = "mx.test.example"
MESSAGE = b"Subject: hello\r\nFrom: a@src.example\r\n\r\nOne line\r\n.dotted\r\n"


@dataclass(slots=True)
class Mail:
    """A message as the wrapped handler got it."""

    sender: str | None
    sender_options: list[str]
    recipients: list[str]
    content: bytes | str | None
    queue_id: str
    quarantine: str | None


@dataclass(slots=True)
class Inbox:
    """A handler that keeps mail."""

    mails: list[Mail] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        filtered = cast("FilteredEnvelope", envelope)
        assert filtered.content in (filtered.original_content, _text(filtered.original_content))
        self.mails.append(
            Mail(
                filtered.mail_from,
                list(filtered.mail_options),
                list(filtered.rcpt_tos),
                filtered.content,
                filtered.queue_id,
                filtered.quarantine,
            )
        )
        return "250 2.0.0 kept"


class Decider(Recorder):
    """Decides at some stages, and notes what it is told.

    Attributes:
        decisions: What to return, by stage.
    """

    decisions: dict[str, Any]

    async def act(self, stage: str) -> Any:
        return self.decisions.get(stage)

    async def on_eom(self, actions: EomActions) -> Any:
        self.journal.note("eom")
        return await self.act("eom")


def decider(**decisions: Any) -> type[Decider]:
    """Return a milter that decides, with a journal of its own."""
    made = recorder(Decider, decisions=decisions)
    assert issubclass(made, Decider)
    return made


def address_of(server: Server) -> str:
    """Return where a milter on a loopback port is to be found."""
    return f"inet:{server.sockets[0].getsockname()[1]}@127.0.0.1"


@asynccontextmanager
async def listening(handler: object, **settings: Any) -> AsyncIterator[int]:
    """Run an SMTP server in this loop; its port."""
    settings = {"hostname": HOSTNAME, "enable_SMTPUTF8": True, **settings}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, loop=loop, **settings), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass(slots=True)
class Rig:
    """An SMTP server, and the milters that it consults.

    Attributes:
        port: Of the SMTP server.
        inbox: Where mail ends.
        servers: The milters.
    """

    port: int
    inbox: Inbox
    servers: list[Server]

    @classmethod
    @asynccontextmanager
    async def running(
        cls, *milters: type[Milter], inbox: Any = None, smtp: Any = None, **settings: Any
    ) -> AsyncIterator[Rig]:
        """Run milters and a server that consults them in turn.

        Args:
            milters: The milters.
            inbox: The handler; None for an `Inbox`.
            smtp: Settings of the SMTP server.
            settings: Settings of the `MilterHandler`.
        """
        inbox = inbox or Inbox()
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(serving(milter)) for milter in milters]
            handler = MilterHandler(inbox, *map(address_of, servers), **settings)
            port = await stack.enter_async_context(listening(handler, **(smtp or {})))
            yield cls(port, inbox, servers)

    @classmethod
    @asynccontextmanager
    async def session(
        cls, *milters: type[Milter], **settings: Any
    ) -> AsyncIterator[tuple[Rig, SmtpClient]]:
        """Run milters, and open an SMTP session with EHLO done; see `running`."""
        async with (
            cls.running(*milters, **settings) as rig,
            SmtpClient.connect(rig.port) as smtp,
        ):
            assert (await smtp.ehlo()).code == 250
            yield rig, smtp

    @property
    def connections(self) -> int:
        """How many connections to milters are open."""
        return sum(server.connections for server in self.servers)


def _text(content: bytes | None) -> str:
    return (content or b"").decode("utf-8", "surrogateescape")
