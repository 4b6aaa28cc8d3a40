"""An SMTP server that keeps every message it is given: the place where all test mail ends.

It runs in threads of its own, so it serves a whole test session while each test has a fresh
event loop, and a milter that blocks its loop cannot stop the delivery that a test waits for.
"""

import asyncio
import re
import socket
import socketserver
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self, cast

__all__ = ["Delivery", "Sink"]

_EXTENSIONS = (
    b"PIPELINING",
    b"SIZE 104857600",
    b"8BITMIME",
    b"DSN",
    b"SMTPUTF8",
    b"ENHANCEDSTATUSCODES",
)

_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)

# Both name their queue id in the trace field: "by host (Postfix) with ESMTP id 4Xb2dF1Gz7z9", "by
# host (8.17.1.9/8.17.1.9/Debian-2) with ESMTP id 5AMKAr5v001234".
_QUEUE_ID = re.compile(rb"by\s+\S+\s+\((?:Postfix|8\.)[^)]*\)\s+(?:with\s+\w+\s+)?id\s+(\w+)")


@dataclass(slots=True)
class Delivery:
    """One message as it was handed over.

    Attributes:
        sender: Envelope sender in its brackets, ``<a@src.example>``.
        sender_params: Its ESMTP parameters, such as ``SIZE=120``.
        recipients: Envelope recipients in their brackets; Postfix sorts them.
        recipient_params: The ESMTP parameters of each recipient, such as ``NOTIFY=NEVER``.
        content: The exact bytes after DATA, dots undone, without the final dot line.
    """

    sender: str
    sender_params: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    recipient_params: dict[str, list[str]] = field(default_factory=dict)
    content: bytes = b""

    @property
    def queue_id(self) -> str:
        """The queue id of the server that delivered it, from its trace field; may be empty."""
        found = _QUEUE_ID.search(self.content)
        return found[1].decode() if found else ""

    @property
    def header_lines(self) -> list[bytes]:
        """The header fields in order, folds kept, each without its final CRLF."""
        # A message without a body may lack the empty line too.
        head = self.content.partition(b"\r\n\r\n")[0].removesuffix(b"\r\n")
        return [] if head.startswith(b"\r\n") else re.split(rb"\r\n(?![ \t])", head)

    @property
    def own_header_lines(self) -> list[bytes]:
        """The header fields without the trace field of the server that delivered it."""
        return [line for line in self.header_lines if not _QUEUE_ID.search(line)]

    @property
    def body(self) -> bytes:
        """The bytes after the empty line."""
        return self.content.partition(b"\r\n\r\n")[2]


def _split_path(text: str) -> tuple[str, list[str]]:
    """Split ``<a@b> SIZE=1 RET=HDRS`` into the address in brackets and the parameters."""
    # Test addresses have no blank in their local parts, so the first blank ends the address.
    address, *params = text.strip().split()
    return address, params


class _Conversation(socketserver.StreamRequestHandler):
    """One SMTP session."""

    def handle(self) -> None:
        """Answer every command with success and keep what DATA brings."""
        sink = cast("_Listener", self.server).sink
        reader = cast("BinaryIO", self.rfile)
        delivery = Delivery("")
        self._say(b"220 sink.test.example ESMTP")
        while line := self._read_line(reader):
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            verb = text.upper()
            if verb.startswith("EHLO"):
                self._say(*(b"250-" + name for name in _EXTENSIONS), b"250 sink.test.example")
            elif verb.startswith("MAIL FROM:"):
                delivery = Delivery(*_split_path(text[10:]))
                self._say(b"250 2.1.0 ok")
            elif verb.startswith("RCPT TO:"):
                address, params = _split_path(text[8:])
                delivery.recipients.append(address)
                delivery.recipient_params[address] = params
                self._say(b"250 2.1.5 ok")
            elif verb == "DATA":
                self._say(b"354 go on")
                content = self._read_content(reader)
                if content is None:
                    return  # the server has gone in mid message, and will come again
                delivery.content = content
                sink.keep(delivery)
                self._say(b"250 2.0.0 kept")
            elif verb == "QUIT":
                self._say(b"221 2.0.0 bye")
                return
            else:
                self._say(b"250 2.0.0 ok")

    def _say(self, *lines: bytes) -> None:
        self.wfile.write(b"".join(line + b"\r\n" for line in lines))

    def _read_content(self, reader: BinaryIO) -> bytes | None:
        lines: list[bytes] = []
        while (line := self._read_line(reader)) != b".\r\n":
            if not line:
                return None
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def _read_line(self, reader: BinaryIO) -> bytes:
        if _TCP_QUICKACK is not None:
            # A server that sends a message in pieces would wait 40 ms for each acknowledgement.
            self.connection.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        return reader.readline()


class _Listener(socketserver.ThreadingTCPServer):
    """The listening socket and a back-reference for its conversations."""

    daemon_threads = True
    allow_reuse_address = True
    # Else a connection may be one to the mail server alone, which then waits for its greeting.
    request_queue_size = 1000

    def __init__(self, sink: "Sink") -> None:
        self.sink = sink
        super().__init__(("127.0.0.1", 0), _Conversation)


class Sink:
    """The running sink: ``with Sink() as sink``.

    Messages are told apart by the queue id of the server that delivered them, so a test never
    sees a late message of another.
    """

    def __init__(self) -> None:
        """Bind a free loopback port; nothing is answered before the ``with`` block."""
        self._listener = _Listener(self)
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.02,), name="smtp-sink"
        )
        self._lock = threading.Lock()
        self._deliveries: list[Delivery] = []
        self._waiting: list[tuple[bytes, Future[Delivery]]] = []
        self.port: int = self._listener.server_address[1]

    def __enter__(self) -> Self:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop answering and close the port."""
        self._listener.shutdown()
        self._thread.join(5)
        self._listener.server_close()

    def keep(self, delivery: Delivery) -> None:
        """Store a message and wake those who wait for it."""
        with self._lock:
            self._deliveries.append(delivery)
            ready = [entry for entry in self._waiting if entry[0] in delivery.content]
            self._waiting = [entry for entry in self._waiting if entry not in ready]
        for _, future in ready:
            # A waiter that gave up has cancelled its future: no reason to fail the delivery.
            if future.set_running_or_notify_cancel():
                future.set_result(delivery)

    @property
    def total(self) -> int:
        """How many messages have come so far."""
        with self._lock:
            return len(self._deliveries)

    def since(self, total: int) -> list[Delivery]:
        """Return the messages that have come since there were ``total``, in their order."""
        with self._lock:
            return self._deliveries[total:]

    def count(self, mark: str) -> int:
        """Return how many messages with the queue id or text ``mark`` have come so far."""
        with self._lock:
            return sum(mark.encode() in delivery.content for delivery in self._deliveries)

    async def wait_for(self, mark: str, timeout_s: float = 10) -> Delivery:
        """Return the first message whose bytes contain ``mark``, at once if it has already come.

        Args:
            mark: The queue id, or text that only this message carries.
            timeout_s: How long to wait at most.

        Raises:
            TimeoutError: It has not come in time.
        """
        future: Future[Delivery] = Future()
        with self._lock:
            for delivery in self._deliveries:
                if mark.encode() in delivery.content:
                    return delivery
            self._waiting.append((mark.encode(), future))
        return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
