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
from aiomilter.aio.runner import run
from aiomilter.aio.server import Server, serve
from aiomilter.app.actions import EomActions
from aiomilter.app.macros import Macros
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
    MilterError,
    MilterUnavailable,
    ProtocolError,
    RemoteProtocolError,
)
from aiomilter.session.status import Status
from aiomilter.spec import Actions, MacroStage, Options

__all__ = [
    "ActionNotNegotiated",
    "Actions",
    "Config",
    "ConfigError",
    "EomActions",
    "LocalProtocolError",
    "MacroStage",
    "Macros",
    "MessageRecord",
    "Milter",
    "MilterError",
    "MilterUnavailable",
    "Negotiation",
    "Observer",
    "Options",
    "ProtocolError",
    "RemoteProtocolError",
    "Reply",
    "Server",
    "SocketInfo",
    "Status",
    "Verdict",
    "__version__",
    "leading_space",
    "macros",
    "no_reply",
    "rejected_recipients",
    "run",
    "serve",
    "time_limit",
]
