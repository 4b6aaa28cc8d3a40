"""SMTP client, Postfix, milter under test and sink, put together."""

import grp
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiomilter import Config, Milter, Server
from aiomilter.testing.servers.postfix import Postfix
from aiomilter.testing.servers.sink import Delivery, Sink
from aiomilter.testing.servers.smtp import SmtpClient, SmtpReply

__all__ = ["CONFIG", "Rig"]

# Postfix's daemons connect as user postfix, the tests run as root.
CONFIG = Config(unix_mode=0o660, unix_group="postfix")


@dataclass(frozen=True, slots=True)
class Rig:
    """What a test needs around its milter.

    The SMTP listeners of the Postfix, by name:

    - ``plain`` consults nobody.
    - ``unix`` consults a milter on a unix socket, as mail from sendmail(1) does.
    - ``inet`` consults a milter on a TCP port.

    Attributes:
        postfix: The running Postfix.
        sink: Where it delivers.
        addresses: For each listener the address on which its milter must listen.
    """

    postfix: Postfix
    sink: Sink
    addresses: dict[str, str]

    @classmethod
    def started(cls, postfix: Postfix, sink: Sink, milter_port: int) -> Self:
        """Start the Postfix.

        Args:
            postfix: A fresh instance.
            sink: The sink that it was made for.
            milter_port: A loopback port that nobody else takes.
        """
        unix = postfix.milter_address
        settings = {
            "plain": {"smtpd_milters": ""},
            "unix": {},
            "inet": {"smtpd_milters": f"inet:127.0.0.1:{milter_port}"},
        }
        postfix.start(settings)
        inet = f"inet:{milter_port}@127.0.0.1"
        return cls(postfix, sink, {"unix": unix, "inet": inet})

    @property
    def unix_path(self) -> Path:
        """Where the unix socket of the milter is."""
        return Path(self.addresses["unix"].removeprefix("unix:"))

    @property
    def postfix_group(self) -> int:
        """The group that must be able to connect to the unix socket."""
        return grp.getgrnam("postfix").gr_gid

    @asynccontextmanager
    async def milter(
        self, factory: Callable[[], Milter], listener: str = "unix", config: Config = CONFIG
    ) -> AsyncIterator[None]:
        """Run a milter for a listener.

        Args:
            factory: The milter class.
            listener: Which of the listeners will ask it.
            config: The configuration of the library.
        """
        async with Server(factory, self.addresses[listener], config=config):
            yield

    @asynccontextmanager
    async def session(
        self, factory: Callable[[], Milter], listener: str = "unix", config: Config = CONFIG
    ) -> AsyncIterator[SmtpClient]:
        """Run a milter and open one SMTP session that it is asked about, with EHLO done."""
        async with (
            self.milter(factory, listener, config),
            SmtpClient.connect(self.postfix.port(listener)) as smtp,
        ):
            await smtp.ehlo()
            yield smtp

    async def delivery(self, reply: SmtpReply) -> Delivery:
        """Return the delivered message that a reply to the end of DATA speaks of."""
        return await self.sink.wait_for(reply.queue_id)
