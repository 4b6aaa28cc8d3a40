"""An SMTP server of aiosmtpd, in a thread, whose handler gets what milters let pass.

pip install 'aiomilter[aiosmtpd]'
python examples/howto/mailbox.py
"""

# ruff: noqa: N802  (aiosmtpd knows its hooks by these names)

# <server>
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Session

from aiomilter.contrib.aiosmtpd import FilteredEnvelope, MilterHandler


class Mailbox:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: FilteredEnvelope) -> str:
        print(envelope.queue_id, envelope.mail_from, envelope.rcpt_tos)
        print(envelope.original_content)
        return "250 2.0.0 taken"


def start(mailbox: Mailbox, *milters: str, port: int = 8025) -> Controller:
    handler = MilterHandler(mailbox, *milters)
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    return controller


# <quarantine>
class HoldingMailbox(Mailbox):
    async def handle_QUARANTINE(
        self, server: SMTP, session: Session, envelope: FilteredEnvelope, reason: str
    ) -> str:
        print(envelope.queue_id, "is held:", reason)
        return "250 2.0.0 held"


# <main>
if __name__ == "__main__":
    controller = start(Mailbox(), "inet:8891@127.0.0.1", "unix:/run/rspamd/milter.sock")
    input("Enter ends it.\n")
    controller.stop()
