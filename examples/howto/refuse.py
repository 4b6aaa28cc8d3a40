"""Refuse a client, a sender, a recipient and a message, each with a text.

python examples/howto/refuse.py
"""

from aiomilter import EomActions, Milter, Reply, SocketInfo, Status, run

BLOCKED_NETWORKS = ("203.0.113.0/24", "2001:db8:bad::/48")
FULL_MAILBOXES = {"<full@example.org>"}


class Refuse(Milter):
    # <client>
    async def on_connect(self, hostname: str, client: SocketInfo) -> Reply | Status:
        if client.is_in(*BLOCKED_NETWORKS):
            # Counts for the whole session: all that the client asks for is refused.
            return Reply(
                554, "5.7.1", f"{client.ip} is blocked here", "see https://example.org/block"
            )
        return Status.CONTINUE

    # <sender>
    async def on_mail(self, sender: str, params: list[str]) -> Reply | None:
        if sender.lower().endswith("@example.invalid>"):
            return Reply(550, "5.7.1", "no mail from there, please")
        return None

    # <recipient>
    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        if recipient.lower() in FULL_MAILBOXES:
            return Reply(452, "4.2.2", "this mailbox is full, try again tomorrow")
        return None

    # <message>
    def begin_message(self) -> None:
        self.has_date = False

    async def on_header(self, name: str, value: str) -> None:
        if name.lower() == "date":
            self.has_date = True

    async def on_eom(self, actions: EomActions) -> Reply | None:
        if not self.has_date:
            return Reply(550, "5.6.0", "this message has no Date header", "RFC 5322 asks for one")
        return None

    # <end>


if __name__ == "__main__":
    run(Refuse, "inet:9900")
