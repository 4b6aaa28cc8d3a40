"""Either mail server for a proof of many messages, and what it says of the milter in its log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aiomilter import Config
from aiomilter.testing.servers import Mta
from aiomilter.testing.servers.postfix import Postfix
from aiomilter.testing.servers.sendmail import Sendmail
from aiomilter.testing.servers.server import MailServer
from aiomilter.testing.servers.sink import Sink

__all__ = ["SENDMAIL_ROOT", "UNIX", "complaints", "mail_server", "shown"]

SENDMAIL_ROOT = Path(__file__).resolve().parents[3] / ".sendmail"
"""Where `make test-deps` unpacks Sendmail."""

# Postfix's daemons connect as user postfix.
UNIX = Config(unix_mode=0o660, unix_group="postfix")

# Postfix warns that it "can't read SMFIC_EOH reply packet header: Connection timed out", Sendmail
# says "timeout before data read, where=mail" and that the milter is "to error state". Sendmail's
# log at this level also tells of good things: "init success", "abort filter".
_COMPLAINT = re.compile(
    r"(?:warning|error|fatal|panic): milter"
    r"|Milter \(aiomilter\):.*(?:time|error|bogus|fail|invalid|unknown|malformed|too )"
    r"|milter.*tim(?:ed out|e-?out)",
    re.IGNORECASE,
)


@contextmanager
def mail_server(
    kind: Mta, sink: Sink, settings: Mapping[str, str] | None = None
) -> Iterator[MailServer]:
    """Run a mail server in front of a sink until the block ends.

    Args:
        kind: Which one.
        sink: Where it delivers.
        settings: As `Postfix` or `Sendmail` takes them.
    """
    server = (
        Postfix(sink.port, settings=settings)
        if kind is Mta.POSTFIX
        else Sendmail(sink.port, settings=settings, root=SENDMAIL_ROOT)
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


def complaints(server: MailServer) -> list[str]:
    """Return the lines of its log that find fault with the milter."""
    return [line for line in server.log_text().splitlines() if _COMPLAINT.search(line)]


def shown(lines: list[str]) -> str:
    """Return how many there are, and the first of them."""
    return f"{len(lines)}: {lines[:3]}" if lines else "0"
