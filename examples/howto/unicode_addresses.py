"""Compare and show internationalised addresses (SMTPUTF8) without mistakes.

python examples/howto/unicode_addresses.py
"""

from aiomilter import EnvelopeAddress, Message, Milter, Reply, run

OUR_DOMAINS = {"example.org", "xn--bcher-kva.example"}  # the latter is bücher.example


class Unicode(Milter):
    # <callbacks>
    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        address = EnvelopeAddress(recipient, *params)
        # Bücher.example, bücher.example and xn--bcher-kva.example are one domain.
        if address.ascii_domain not in OUR_DOMAINS:
            return Reply(550, "5.7.1", f"no mail for {address.unicode_domain} here")
        return None

    # <message>
    async def on_message(self, message: Message) -> None:
        if message.sender.parameters.smtputf8:
            # Whoever gets this mail can read UTF-8 in headers.
            self.log.info("an internationalised message, %s", message.headers.get_text("Subject"))
        message.headers.add("X-Sender-Domain", message.sender.unicode_domain)

    # <end>


if __name__ == "__main__":
    run(Unicode, "inet:9900")
