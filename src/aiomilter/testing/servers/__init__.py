"""Milters behind real mail servers: Postfix and Sendmail, private and on the loopback.

::

    from aiomilter.testing.servers import MailServers, load_case

    with MailServers() as servers:
        case = load_case(Path("cases/nobody.case"))
        for kind in case.servers:
            (await servers.run(case, kind, MyMilter)).assert_passed()
"""

from aiomilter.app.mta.kind import Mta
from aiomilter.testing.servers.case import Case, load_case, load_cases
from aiomilter.testing.servers.postfix import Postfix
from aiomilter.testing.servers.result import CaseResult
from aiomilter.testing.servers.runner import MailServers
from aiomilter.testing.servers.sendmail import Sendmail
from aiomilter.testing.servers.server import HeldMessage, MailServer
from aiomilter.testing.servers.sink import Delivery, Sink
from aiomilter.testing.servers.smtp import SmtpClient, SmtpReply
from aiomilter.testing.servers.template import CaseError

__all__ = [
    "Case",
    "CaseError",
    "CaseResult",
    "Delivery",
    "HeldMessage",
    "MailServer",
    "MailServers",
    "Mta",
    "Postfix",
    "Sendmail",
    "Sink",
    "SmtpClient",
    "SmtpReply",
    "load_case",
    "load_cases",
]
