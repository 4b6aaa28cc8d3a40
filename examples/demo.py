"""Run the README's milter on a real socket, and feed it the messages of examples/messages.

    make demo                                     (or: PYTHONPATH=src python3 examples/demo.py)

The milter is served by `aiomilter.Server`, as it would be in production; the mail server is
played by `aiomilter.mta` in the same process. Needs Python alone, and no mail server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aiomilter import MilterError, Server, Status
from aiomilter.mta import Client, Content, Envelope, connect
from aiomilter.mta import Path as MailPath

if TYPE_CHECKING:
    import io

    from examples.demo_account import Account, count, size
    from examples.readme_milter import Gatekeeper
else:
    # Run as a program, Python looks for modules beside this file.
    from demo_account import Account, count, size
    from readme_milter import Gatekeeper

HERE = Path(__file__).resolve().parent
LARGE_BODY_BYTES = 2_000_000
NEXT = """\
Try next
  PYTHONPATH=src python3 examples/readme_milter.py   the same milter on port 9900, for a mail server
  less examples/README.md                            more milters; how to point a mail server at one
  make test                                          every check and every test
"""


@dataclass(frozen=True, slots=True)
class Mail:
    """A message, and who brings it."""

    client: Client
    envelope: Envelope
    content: Content

    @classmethod
    def read(cls, path: Path) -> Mail:
        """Read NAME.eml and beside it NAME.envelope.json."""
        said = json.loads(path.with_suffix(".envelope.json").read_text(encoding="utf-8"))
        client = Client(
            said["client_name"], said["client_address"], said["client_port"], said["helo"]
        )
        recipients = [MailPath(*recipient) for recipient in said["recipients"]]
        return cls(client, Envelope(MailPath(*said["sender"]), recipients), Content.parse(path))


def mails() -> dict[str, Mail]:
    """Return the messages by name; the large one is made here instead of being kept."""
    found = {path.name: Mail.read(path) for path in sorted(HERE.glob("messages/*.eml"))}
    name = "backup.example.com"
    line = b"Every night a copy is made, and somebody is told all about it.\n"
    text = b"From: backup@example.com\nTo: anna@example.org\nSubject: Log of the night\n\n"
    text += line * (LARGE_BODY_BYTES // (len(line) + 1))
    found["a large one, made up"] = Mail(
        Client(name, "203.0.113.8", 52144, name),
        Envelope(
            MailPath("<backup@example.com>", f"SIZE={LARGE_BODY_BYTES + 200}"), "anna@example.org"
        ),
        Content.parse(text),
    )
    return found


async def feed(path: str, account: Account) -> None:
    """Consult the milter at ``path`` about every message, each on a connection of its own."""
    for number, (name, mail) in enumerate(mails().items(), 1):
        async with connect(f"unix:{path}") as milter:
            if number == 1:
                account.negotiation(milter.agreed)
            recipients = count(len(mail.envelope.recipients), "recipient")
            account.title(f"{number}  {name}: {size(len(mail.content.body))} for {recipients}")
            outcome = await milter.send(mail.envelope, mail.content, client=mail.client)
        account.outcome(name, mail.envelope, outcome)


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
    except (MilterError, OSError) as error:
        sys.exit(f"demo: {error}")
    if Status.TEMPFAIL in account.statuses:
        # Nothing in the milter asks for that, so it is what a fault costs.
        sys.exit("demo: the milter failed; the log on stderr says where")


if __name__ == "__main__":
    main()
