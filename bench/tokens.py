"""Whether anything of one message or session is ever seen in another: everything carries a token.

    python -m bench.tokens --sessions 200 --messages 500

So many sessions at the same time say all that a message can have (sender, recipients, macros,
headers, body), or leave it out, each with a token of that message in it; give messages up, have
recipients refused, and begin new sessions on the same connection. At the end of each message the
milter says all that it knows in a header. Every answer is compared with what it must be: a token
that is missing, or one of another message, is a wrong answer. `--messages` is for each session.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from aiomilter import EomActions, Milter, Reply, Server, SocketInfo, Status
from bench.packets import ABORT, CONTINUE, OFFER, Peer, added_header, packet

__all__ = ["Known", "main", "run"]

_A_WRITE = 5
"""Messages that are sent at a time: then those of one connection are read in one piece."""
_AGREED_BYTES = 17
_REFUSED = packet(b"y", b"550 5.1.1 not here\0")
_SHOWN = 400


class Known(Milter):
    """Says in a header all that it knows of a message, of its session and of its connection."""

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.connected_as = hostname

    async def on_helo(self, hostname: str) -> None: ...

    def begin_message(self) -> None:
        self.seen: list[str] = []

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.seen += [sender, *params]
        # Here the other sessions have their turn.
        await asyncio.sleep(0)

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        if recipient.startswith("<no."):
            return Reply(550, "5.1.1", "not here")
        return None

    async def on_header(self, name: str, value: str) -> None:
        self.seen += [name, value]

    async def on_body(self, chunk: bytes) -> None:
        self.seen.append(chunk.decode())
        await asyncio.sleep(0)

    async def on_eom(self, actions: EomActions) -> Status:
        macros = sorted(f"{name}={value}" for name, value in self.macros.items())
        facts = (self.connected_as, str(self.helo_name), str(self.sender), *self.recipients)
        actions.add_header("X-Known", " ".join((*facts, *self.seen, *macros)))
        # As in libmilter, another session may begin behind this, not behind ACCEPT.
        return Status.CONTINUE


class Sayer:
    """What one client says, and what it must hear; drawn from a seed.

    Attributes:
        counts: How many messages of each kind there were.
    """

    def __init__(self, number: int, counts: Counter[str]) -> None:
        self.counts = counts
        self._number = number
        self._choice = random.Random(number)
        self._message = 0
        self._sessions = 0
        self._session_macros: list[str] = []
        self._helo = self._host = ""

    def session(self) -> tuple[bytes, bytes]:
        """Return the beginning of a session behind the offer, and the answers."""
        self._sessions += 1
        token = f"{self._number}.s{self._sessions}"
        self._host, self._helo = f"host.{token}", f"helo.{token}"
        said, self._session_macros = b"", []
        if self._maybe():
            said += self._macros("C", self._session_macros, "{client}", token)
        said += packet(b"C", self._host.encode() + b"\x004\0\x19192.0.2.1\0")
        if self._maybe():
            said += self._macros("H", self._session_macros, "{hello}", token)
        return said + packet(b"H", self._helo.encode() + b"\0"), 2 * CONTINUE

    def next_session(self) -> tuple[bytes, bytes]:
        """Return the same with the end of the session before and another offer (QUIT_NC)."""
        said, heard = self.session()
        return packet(b"K") + said, heard

    def message(self, *, is_whole: bool = False) -> tuple[bytes, bytes]:
        """Return a message, whole or perhaps given up, and the answers."""
        self._message += 1
        token = f"{self._number}.{self._message}"
        own: list[str] = []
        seen = [f"<{token}@src.example>"]
        said = heard = b""
        if self._maybe():
            said += self._macros("M", own, "{mail}", token)
        param = f"ENVID={token}"
        with_param = self._maybe()
        said += packet(
            b"M", f"{seen[0]}\0".encode() + (f"{param}\0".encode() if with_param else b"")
        )
        seen += [param] * with_param
        heard += CONTINUE
        recipients: list[str] = []
        last_rcpt: list[str] = []
        for count in range(self._choice.randrange(1, 4)):
            if self._maybe():
                last_rcpt = []
                said += self._macros("R", last_rcpt, "{rcpt}", f"{token}.{count}")
            is_known = self._maybe(0.8)
            recipient = f"<{'yes' if is_known else 'no'}.{token}.{count}@dst.example>"
            said += packet(b"R", recipient.encode() + b"\0")
            heard += CONTINUE if is_known else _REFUSED
            recipients += [recipient] * is_known
        own += last_rcpt
        if self._maybe(0.1) and not is_whole:
            self.counts["given up"] += 1
            return said + ABORT, heard
        for count in range(self._choice.randrange(3)):
            name, value = f"X-{count}", f"h.{token}.{count}"
            said += packet(b"L", f"{name}\0{value}\0".encode())
            heard += CONTINUE
            seen += [name, value]
        if self._maybe(0.05) and not is_whole:
            self.counts["given up"] += 1
            return said + ABORT, heard
        for count in range(self._choice.randrange(3)):
            body = f"b.{token}.{count}"
            said += packet(b"B", body.encode())
            heard += CONTINUE
            seen.append(body)
        if self._maybe():
            said += self._macros("E", own, "{end}", token)
        macros = sorted(self._session_macros + own)
        known = " ".join((self._host, self._helo, seen[0], *recipients, *seen, *macros))
        self.counts["whole"] += 1
        return said + packet(b"E"), heard + added_header(b"X-Known", known.encode()) + CONTINUE

    def _maybe(self, share: float = 0.5) -> bool:
        return self._choice.random() < share

    def _macros(self, stage: str, noted: list[str], name: str, token: str) -> bytes:
        noted.append(f"{name}={token}")
        return packet(b"D", f"{stage}{name}\0{token}\0".encode())


async def run(sessions: int, messages: int, path: Path) -> tuple[Counter[str], list[str]]:
    """Have all messages filtered.

    Args:
        sessions: How many connections there are at the same time.
        messages: How many each of them sends.
        path: The unix socket.

    Returns:
        How many messages of each kind there were, and what was wrong.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []

    async def converse(number: int) -> None:
        sayer = Sayer(number, counts)
        peer = await Peer.connected(str(path))
        await peer.ask(OFFER, _AGREED_BYTES)
        said, heard = sayer.session()
        left = messages
        while left:
            count = min(_A_WRITE, left)
            for turn in range(count):
                # Another session may begin behind a whole message only.
                one = sayer.message(is_whole=turn == count - 1)
                said, heard, left = said + one[0], heard + one[1], left - 1
            answer = await peer.ask(said, len(heard))
            if answer != heard:
                wrong.append(f"{answer!r}"[:_SHOWN] + " instead of " + f"{heard!r}"[:_SHOWN])
                break
            said = heard = b""
            if number % 2 and left:
                said, heard = sayer.next_session()
                counts["sessions on a used connection"] += 1
        peer.quit()

    async with Server(Known, f"unix:{path}"), asyncio.TaskGroup() as group:
        for number in range(sessions):
            group.create_task(converse(number))
    return counts, wrong


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="bench.tokens", description=__doc__)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--messages", type=int, default=500, help="of each session")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tokens-") as directory:
        path = Path(directory) / "milter.sock"
        counts, wrong = asyncio.run(run(options.sessions, options.messages, path))
    seconds = time.monotonic() - began
    print(
        f"{options.sessions:,} sessions at a time, {options.messages:,} messages each, "
        f"{seconds:.0f} s: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())
    )
    print(f"wrong answers: {len(wrong)} {wrong[:3]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
