"""Run the README's milter on a real socket, and feed it the messages of examples/messages.

    make demo                                     (or: PYTHONPATH=src python3 examples/demo.py)

The milter is served by `aiomilter.Server`, as it would be in production; the mail server is
played by mta_end.py in the same process. Needs Python alone, and no mail server.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aiomilter import MilterError, Server
from aiomilter.wire import replies

if TYPE_CHECKING:
    import io

    from examples.demo_account import Account, count, size
    from examples.mta_end import Envelope, Message, MtaEnd
    from examples.readme_milter import Gatekeeper
else:
    # Run as a program, Python looks for modules beside this file.
    from demo_account import Account, count, size
    from mta_end import Envelope, Message, MtaEnd
    from readme_milter import Gatekeeper

HERE = Path(__file__).resolve().parent
LARGE_BODY_BYTES = 2_000_000
NEXT = """\
Try next
  python examples/readme_milter.py    the same milter on port 9900, for a real mail server
  less examples/README.md             more milters, and how to point Postfix or Sendmail at one
  make test                           every check and every test
"""


def messages() -> dict[str, Message]:
    """Return the messages by name; the large one is made here instead of being kept."""
    found = {path.name: Message.read(path) for path in sorted(HERE.glob("messages/*.eml"))}
    envelope = Envelope(
        client_name="backup.example.com",
        client_address="203.0.113.8",
        client_port=52144,
        helo="backup.example.com",
        sender=["<backup@example.com>", f"SIZE={LARGE_BODY_BYTES + 200}"],
        recipients=[["<anna@example.org>"]],
    )
    line = b"Every night a copy is made, and somebody is told all about it.\n"
    text = b"From: backup@example.com\nTo: anna@example.org\nSubject: Log of the night\n\n"
    text += line * (LARGE_BODY_BYTES // (len(line) + 1))
    found["a large one, made up"] = Message.parse(envelope, text)
    return found


async def feed(path: str, account: Account) -> None:
    """Consult the milter at ``path`` about every message, each from an SMTP client of its own."""
    for number, (name, message) in enumerate(messages().items(), 1):
        mta = await MtaEnd.connect(path)
        if number == 1:
            account.negotiation(mta.agreed)
        recipients = count(len(message.envelope.recipients), "recipient")
        account.title(f"{number}  {name}: {size(len(message.body))} for {recipients}")
        try:
            async for step in mta.send(message, queue_id=f"4TqX{number:04}"):
                account.step(step)
        finally:
            await mta.close()
        account.verdict(name, message, mta.outcome)


async def demonstrate(account: Account) -> None:
    """Serve the milter on a unix socket for as long as it takes to feed it."""
    with tempfile.TemporaryDirectory(prefix="aiomilter-") as directory:
        path = f"{directory}/milter.sock"
        async with Server(Gatekeeper, f"unix:{path}"):
            account.line(f"The milter of examples/readme_milter.py listens on unix:{path}")
            account.line("and is consulted about each message as Postfix would do it.")
            await feed(path, account)


def main() -> None:
    """Run the demo, and say in one sentence what went wrong if something did."""
    # Not every terminal can show the letters that these messages have.
    cast("io.TextIOWrapper[io.BufferedWriter]", sys.stdout).reconfigure(errors="backslashreplace")
    account = Account(sys.stdout)
    try:
        asyncio.run(demonstrate(account))
        account.summary()
        account.line(f"\n{NEXT}", end="")
    except TimeoutError:
        sys.exit("demo: the milter did not answer in time")
    except (MilterError, OSError) as error:
        sys.exit(f"demo: {error}")
    if any(isinstance(verdict, replies.TempFail) for verdict in account.verdicts):
        # Nothing in the milter asks for that, so it is what a fault costs.
        sys.exit("demo: the milter failed; the log on stderr says where")


if __name__ == "__main__":
    main()
