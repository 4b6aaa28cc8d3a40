"""The benchmark's message (W1) as an MTA says it: one connection, in lockstep, answers compared.

For counting in one process; `load.c` is the load for times and for other processes.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from bench.packets import CONTINUE, EOH, EOM, OFFER, QUIT, added_header, packet

__all__ = ["COMMANDS", "talk"]

_RECIPIENTS = (b"user1@example.org", b"user2@example.org")
_HEADERS = 12
_BODY = bytes(97 + at % 26 for at in range(4096))
_ANSWER = added_header(b"X-Bench", b"1") + CONTINUE
_AGREED_BYTES = 17
_PATIENCE_S = 20.0


COMMANDS = 1 + len(_RECIPIENTS) + 1 + _HEADERS + 1 + 1 + 1
"""How many commands a message has, macros not counted."""


def _commands() -> list[bytes]:
    mail = packet(b"D", b"Mi\x004B1C2D3E4F\0{mail_addr}\0sender@example.net\0")
    mail += packet(b"M", b"<sender@example.net>\0SIZE=5000\0")
    recipients = (
        packet(b"D", b"R{rcpt_addr}\0" + address + b"\0") + packet(b"R", b"<" + address + b">\0")
        for address in _RECIPIENTS
    )
    headers = (
        packet(b"L", b"X-Header-%d\0value number %d of an ordinary header\0" % (number, number))
        for number in range(1, _HEADERS + 1)
    )
    return [mail, *recipients, packet(b"T"), *headers, EOH, packet(b"B", _BODY)]


def talk(path: str, messages: int, *, answers: bool) -> None:
    """Send messages on one connection.

    Args:
        path: The milter's socket.
        messages: How many.
        answers: Whether the milter answers at each stage, or at the end of the message only.

    Raises:
        ValueError: An answer was wrong.
        OSError: There is no milter, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.connect(path)

        def receive(size: int) -> bytes:
            got = b""
            while len(got) < size:
                more = sock.recv(4096)
                if not more:
                    raise ValueError(f"closed after {got!r}")
                got += more
            return got

        def ask(commands: Sequence[bytes], last: bytes = b"", answer: bytes = b"") -> None:
            """Send commands one by one, or what is not answered in one go, as Postfix does."""
            writes = [(command, CONTINUE) for command in commands] if answers else []
            if last:
                writes.append((last if answers else b"".join((*commands, last)), answer))
            for data, wanted in writes:
                sock.sendall(data)
                if (got := receive(len(wanted))) != wanted:
                    raise ValueError(f"{got!r} in answer to {data!r}, not {wanted!r}")

        sock.sendall(OFFER)
        receive(_AGREED_BYTES)
        opening = packet(b"C", b"client.example.net\x004\0\x19192.0.2.1\0"), packet(b"H", b"me\0")
        ask(opening)
        if not answers:
            sock.sendall(b"".join(opening))
        commands = _commands()
        for _ in range(messages):
            ask(commands, EOM, _ANSWER)
        sock.sendall(QUIT)
        if got := sock.recv(1):
            raise ValueError(f"{got!r} in answer to QUIT")
