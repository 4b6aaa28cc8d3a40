"""Have ClamAV look at every message, and refuse those in which it finds something.

    python examples/clamd_scan.py [ADDRESS ...]    by default inet:9900, on the loopback address

The environment variable CLAMD says where clamd listens: a path, by default
/run/clamav/clamd.ctl, or HOST:PORT. Its StreamMaxLength should not be below Postfix's
message_size_limit. Messages that cannot be scanned are deferred.

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`clamd', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/clamd.sock`):

    run(partial(ClamdScan, CLAMD), "unix:/var/spool/postfix/milter/clamd.sock",
        config=Config(unix_group="postfix"))

The point of the example: the message goes to clamd in pieces, as it lies in memory or in its
temporary file, and is never in memory as a whole. A plain `def` handler may read that file and wait
for clamd, since it runs in a thread.
"""

import os
import re
import socket
import struct
import sys
from collections.abc import Iterable
from functools import partial

from aiomilter import Message, Milter, Reply, run

__all__ = ["ClamdError", "ClamdScan", "scan"]

CLAMD = os.environ.get("CLAMD", "/run/clamav/clamd.ctl")

TIMEOUT_S = 60.0
"""For each step of the conversation; Postfix waits for 300 s in all by default."""
_MOST_ANSWER_BYTES = 4_096


class ClamdError(Exception):
    """The message was not scanned; a fault of the handler, so that it is deferred."""


def scan(address: str, pieces: Iterable[bytes]) -> str | None:
    """Have clamd look at a message (INSTREAM); return the name of what it has found, or None.

    Raises:
        ClamdError: It has not looked at all of it.
        OSError: It cannot be reached.
    """
    with _connected(address) as sock:
        sock.sendall(b"zINSTREAM\0")
        try:
            for piece in pieces:
                # An empty piece would be the end.
                if piece:
                    sock.sendall(struct.pack(">I", len(piece)) + piece)
            sock.sendall(struct.pack(">I", 0))
        except ConnectionError:
            pass  # it has closed, and what it said before says why
        answer = _read_answer(sock)
    found = re.fullmatch(r"stream: (.+) FOUND", answer)
    if found is not None:
        return found[1]
    if answer != "stream: OK":
        raise ClamdError(f"clamd answers {answer!r}")
    return None


def _connected(address: str) -> socket.socket:
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(TIMEOUT_S)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S)


def _read_answer(sock: socket.socket) -> str:
    answer = b""
    while b"\0" not in answer and len(answer) < _MOST_ANSWER_BYTES:
        try:
            more = sock.recv(_MOST_ANSWER_BYTES)
        except ConnectionError:
            break
        if not more:
            break
        answer += more
    return answer.partition(b"\0")[0].decode("utf-8", "replace").strip()


class ClamdScan(Milter):
    """Refuses what ClamAV knows."""

    def __init__(self, address: str) -> None:
        self.address = address

    def on_message(self, message: Message) -> Reply | None:
        found = scan(self.address, message.iter_bytes())
        if found is None:
            message.headers.remove("X-Virus-Scanned")  # anybody may have written that
            message.headers.add("X-Virus-Scanned", "ClamAV")
            return None
        self.log.info("refused: %a", found[:100])
        # Its name has come over a socket: only what an SMTP reply may have.
        name = re.sub(r"[^\w.:/-]", "?", found[:100], flags=re.ASCII)
        return Reply(550, "5.7.1", f"This message has a virus: {name}")


if __name__ == "__main__":
    run(partial(ClamdScan, CLAMD), *(sys.argv[1:] or ["inet:9900"]))
