"""Refuse the senders of a list, which is read again at SIGHUP, as by `systemctl reload`.

    BLOCKLIST=/etc/mymilter/senders python examples/howto/reload_list.py [ADDRESS ...]

The list has an address in each line, as `<joe@example.net>`. Without an address to listen on it
takes the socket `mta` that systemd has passed.
"""

import asyncio
import os
import sys
from pathlib import Path

from aiomilter import Milter, Reply, run

# <milter>
LIST = Path(os.environ.get("BLOCKLIST", "/etc/mymilter/senders"))


class Blocklist(Milter):
    senders: frozenset[str] = frozenset()

    async def on_mail(self, sender: str, params: list[str]) -> Reply | None:
        if sender.lower() in self.senders:
            return Reply(550, "5.7.1", "no mail from you, please")
        return None


def read_list() -> None:
    text = LIST.read_text(encoding="utf-8")
    # All at once: no handler sees half a list, and after a fault the old one is in place.
    Blocklist.senders = frozenset(text.lower().split())


async def read_list_again() -> None:
    await asyncio.to_thread(read_list)


if __name__ == "__main__":
    read_list()
    run(Blocklist, *(sys.argv[1:] or ["systemd:mta"]), reload=read_list_again)
