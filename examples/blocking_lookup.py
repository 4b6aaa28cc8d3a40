"""Greylisting: ask unknown senders to come back in five minutes, which spammers rarely do.

    python examples/blocking_lookup.py [ADDRESS ...]    by default inet:9900, on loopback

Who was here is kept in memory, or in the file that the environment variable GREYLIST_DB names.

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`greylist', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/greylist.sock`):

    run(partial(Greylist, table), "unix:/var/spool/postfix/milter/greylist.sock",
        config=Config(unix_group="postfix"))

The point of the example: sqlite3 blocks, and so do most database drivers. A plain `def` handler
runs in a thread, so that a slow lookup delays one session and none of the others.
"""

import contextlib
import ipaddress
import math
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from aiomilter import Milter, Reply, SocketInfo, no_reply, run

__all__ = ["Greylist", "Table"]

DELAY_S = 300
"""A mail server tries again after some minutes; the first attempt of most comes later."""
KEEP_S = 35 * 86_400
"""Long enough for a letter that comes once a month."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (
    network TEXT, sender TEXT, recipient TEXT, first_s REAL, last_s REAL,
    PRIMARY KEY (network, sender, recipient)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_last ON seen (last_s);
"""


class Table:
    """Who has tried to send to whom.

    One connection for the whole process, and a lock, since a connection must not be used by two
    threads at once. The lookups then take turns, which is what SQLite does with writes anyway.
    With a database server, give each thread a connection of its own (`threading.local`) or use
    the pool of its driver; `Config(max_threads=...)` says how many there can be at a time.
    """

    def __init__(
        self, path: str, delay_s: float = DELAY_S, clock: Callable[[], float] = time.time
    ) -> None:
        """Open the database, or make it; ``:memory:`` is one that is gone afterwards."""
        # Made in this thread, used in others. The lock keeps them apart.
        self._connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
        self._connection.executescript(_SCHEMA)
        self._lock = threading.Lock()
        self._delay_s = delay_s
        self._clock = clock

    def wait_s(self, network: str, sender: str, recipient: str) -> float:
        """Note an attempt; return for how many seconds it has to wait still, 0 if it may pass."""
        now = self._clock()
        with self._lock, self._connection as database:  # commits, or rolls back after an error
            database.execute("DELETE FROM seen WHERE last_s < ?", (now - KEEP_S,))
            rows = database.execute(
                "INSERT INTO seen VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET last_s = excluded.last_s RETURNING first_s",
                (network, sender, recipient, now, now),
            )
            first_s: float = rows.fetchall()[0][0]
        return max(0.0, first_s + self._delay_s - now)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()


def network_of(client: SocketInfo) -> str:
    """Return the neighbourhood of a client: large senders try again from the next address."""
    if client.ip is None:
        return client.family
    prefix = 24 if client.ip.version == 4 else 64
    return str(ipaddress.ip_network((client.ip, prefix), strict=False))


class Greylist(Milter):
    """One object is one SMTP session; the table is shared by all.

    A database that fails raises in the handler. That costs the MTA one temporary failure, which
    is what greylisting says anyway, and a line in the log.
    """

    def __init__(self, table: Table) -> None:
        self.table = table

    # The MTA tells a milter only of what it has handlers for: without these two, `self.client`
    # and `self.sender` would not be known. As they decide nothing, nobody waits for them.

    @no_reply
    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        pass

    @no_reply
    async def on_mail(self, sender: str, params: list[str]) -> None:
        pass

    def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:  # in a thread
        # The handlers of one session never run at the same time, so `self` needs no lock.
        if "{auth_authen}" in self.macros:
            return None  # somebody of ours, who has logged in
        network = network_of(self.client)
        # SQLite takes no lone surrogates, which stand for bytes that are not UTF-8.
        sender, recipient = ascii(self.sender).lower(), ascii(recipient).lower()
        wait_s = self.table.wait_s(network, sender, recipient)
        if wait_s:
            return Reply(451, "4.7.1", f"greylisted, try again in {math.ceil(wait_s)} seconds")
        return None


def main() -> None:
    """Serve with the database of the environment."""
    path = os.environ.get("GREYLIST_DB") or ":memory:"
    try:
        table = Table(path)
    except sqlite3.Error as error:
        sys.exit(f"blocking_lookup: {path}: {error}")
    with contextlib.closing(table):
        # The library makes a milter for each session by calling what it is given.
        run(partial(Greylist, table), *(sys.argv[1:] or ["inet:9900"]))


if __name__ == "__main__":
    main()
