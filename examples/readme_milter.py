"""The milter of the README: refuses one recipient, marks subjects, holds large messages.

Run it with `python examples/readme_milter.py`; `make demo` shows what it does to messages.
"""

from aiomilter import EomActions, Milter, Reply, no_reply, run


class Gatekeeper(Milter):
    def begin_message(self) -> None:
        self.subject, self.size = "", 0

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        closed = recipient.lower() == "<info@example.org>"
        return Reply(550, "5.1.1", "this mailbox is closed") if closed else None

    async def on_header(self, name: str, value: str) -> None:
        if name.lower() == "subject":
            self.subject = self.subject or value

    @no_reply  # it only counts: the mail server need not wait
    async def on_body(self, chunk: bytes) -> None:
        self.size += len(chunk)

    async def on_eom(self, actions: EomActions) -> None:
        actions.change_header("Subject", 1, f"[external] {self.subject}")
        if self.size > 1_000_000:
            actions.quarantine(f"a body of {self.size:,} bytes")


if __name__ == "__main__":
    run(Gatekeeper, "inet:9900")
