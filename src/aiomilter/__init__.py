"""aiomilter: an asynchronous milter library in pure Python.

A milter is a mail filter that a mail server (an MTA: Postfix, Sendmail) consults at each step of
an SMTP session. Here it is a class, and an object is one session::

    from aiomilter import Milter, SocketInfo, run

    class IpMilter(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            print(f"connect from {client}")

    if __name__ == "__main__":
        run(IpMilter, "unix:/run/ipmilter.sock")
"""

from __future__ import annotations

from aiomilter._version import __version__
from aiomilter.aio.config import Config
from aiomilter.aio.process_pool import ProcessPool
from aiomilter.aio.runner import run
from aiomilter.aio.server import Server, serve
from aiomilter.app.actions import EomActions
from aiomilter.app.compose import chain, dry_run
from aiomilter.app.gathering import MessageNeeds
from aiomilter.app.macros import Macros
from aiomilter.app.message import (
    Body,
    EmailLimits,
    EnvelopeAddress,
    Header,
    Headers,
    MailAddress,
    Message,
    Recipients,
    parse_addresses,
)
from aiomilter.app.milter import Milter, Verdict
from aiomilter.app.negotiation import Negotiation
from aiomilter.app.observer import Observer
from aiomilter.app.options import (
    leading_space,
    macros,
    no_reply,
    rejected_recipients,
    time_limit,
)
from aiomilter.app.record import MessageRecord
from aiomilter.app.reply import Reply
from aiomilter.app.socket_info import SocketInfo
from aiomilter.errors import (
    ActionNotNegotiated,
    ConfigError,
    LocalProtocolError,
    MessageLimitExceeded,
    MilterError,
    MilterUnavailable,
    ProcessCrashed,
    ProcessPoolFull,
    ProtocolError,
    RemoteProtocolError,
    SpoolError,
)
from aiomilter.session.status import Status
from aiomilter.spec import Actions, MacroStage, Options

__all__ = [
    "ActionNotNegotiated",
    "Actions",
    "Body",
    "Config",
    "ConfigError",
    "EmailLimits",
    "EnvelopeAddress",
    "EomActions",
    "Header",
    "Headers",
    "LocalProtocolError",
    "MacroStage",
    "Macros",
    "MailAddress",
    "Message",
    "MessageLimitExceeded",
    "MessageNeeds",
    "MessageRecord",
    "Milter",
    "MilterError",
    "MilterUnavailable",
    "Negotiation",
    "Observer",
    "Options",
    "ProcessCrashed",
    "ProcessPool",
    "ProcessPoolFull",
    "ProtocolError",
    "Recipients",
    "RemoteProtocolError",
    "Reply",
    "Server",
    "SocketInfo",
    "SpoolError",
    "Status",
    "Verdict",
    "__version__",
    "chain",
    "dry_run",
    "leading_space",
    "macros",
    "no_reply",
    "parse_addresses",
    "rejected_recipients",
    "run",
    "serve",
    "time_limit",
]
