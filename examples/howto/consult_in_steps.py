"""Ask a milter about one recipient, once as a mail server of today and once as an old one.

python examples/howto/consult_in_steps.py [ADDRESS]
"""

import asyncio
import sys

from aiomilter import Actions, Options
from aiomilter.mta import Client, Envelope, Offer, Outcome, connect

# <old>
# What a server of version 2 can leave out. Of DATA and of unknown commands it never tells.
LEFT_OUT_AT_WISH = (Options.NO_CONNECT | Options.NO_HELO | Options.NO_MAIL | Options.NO_RCPT) | (
    Options.NO_HEADER | Options.NO_EOH | Options.NO_BODY
)


async def send_as_an_old_server(address: str, message: bytes) -> Outcome:
    offer = Offer(version=2, actions=Actions.ADD_HEADER, options=LEFT_OUT_AT_WISH)
    async with connect(address, offer=offer) as milter:
        return await milter.send(Envelope("alice@example.com", "bob@example.org"), message)


# <steps>
async def is_taken(address: str, recipient: str) -> bool:
    async with connect(address) as milter:
        await milter.connect(Client("mx.example.com", "192.0.2.25"))
        await milter.helo()
        await milter.mail("alice@example.com")
        answer = await milter.rcpt(recipient)
        await milter.abort()
        return not answer.is_refusal


# <end>
async def main(address: str) -> None:
    for recipient in ("bob@example.org", "carol@example.org"):
        print(recipient, "is taken" if await is_taken(address, recipient) else "is refused")
    outcome = await send_as_an_old_server(address, b"Subject: a test\r\n\r\nhello\r\n")
    print("an old server:", outcome.status.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else "inet:8891@127.0.0.1"))
