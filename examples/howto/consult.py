"""Consult a milter about a message, and print what has become of it.

python examples/howto/consult.py [ADDRESS]
"""

# <program>
import asyncio
import sys

from aiomilter.mta import Client, Envelope, connect

MESSAGE = b"From: alice@example.com\r\nSubject: a test\r\n\r\nhello\r\n"


async def main(address: str) -> None:
    async with connect(address) as milter:
        outcome = await milter.send(
            Envelope("alice@example.com", ["bob@example.org", "carol@example.org"]),
            MESSAGE,
            client=Client("mx.example.com", "192.0.2.25", 41022, helo="mx.example.com"),
        )
    print(outcome.status.name, *outcome.refused_recipients)
    if (delivery := outcome.apply()) is not None:
        print(*delivery.envelope.recipient_addresses)
        print(delivery.content)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else "inet:8891@127.0.0.1"))
