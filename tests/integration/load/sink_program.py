"""An SMTP server as a program: says its port, then a line of JSON for each message it takes.

The sink of the other tests runs in threads of the test process, which slows a whole load by half.
A line goes out ahead of the reply to Postfix: no message that Postfix believes to be delivered
is missing in the output.
"""

import asyncio
import json
import re
import sys

QUEUE_ID = re.compile(rb"\(Postfix\)\s+with\s+\w+\s+id\s+(\w+)")
STAMP = re.compile(rb"^X-Stamp: (.*)$", re.MULTILINE)
END = b"\r\n.\r\n"


class Conversation(asyncio.Protocol):
    """One SMTP session. Every command succeeds."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.received = b""
        self.recipients: list[str] = []
        self.is_in_content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 sink.test.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self.take_content() if self.is_in_content else self.take_command():
            pass

    def take_command(self) -> bool:
        """Answer the next command, if it is complete."""
        line, end, rest = self.received.partition(b"\r\n")
        if not end:
            return False
        self.received = rest
        reply = b"250 ok"
        match line[:4].upper():
            case b"EHLO":
                reply = b"250-sink.test.example\r\n250 PIPELINING"
            case b"MAIL":
                self.recipients = []
            case b"RCPT":
                self.recipients.append(line[len("RCPT TO:") :].decode())
            case b"DATA":
                self.is_in_content = True
                reply = b"354 go on"
            case b"QUIT":
                reply = b"221 bye"
        self.transport.write(reply + b"\r\n")
        if reply.startswith(b"221"):
            self.transport.close()
        return True

    def take_content(self) -> bool:
        """Tell of the message, if it is complete.

        It has a header, as Postfix adds its own field, and no line that starts with a dot.
        """
        content, end, rest = self.received.partition(END)
        if not end:
            return False
        self.received = rest
        self.is_in_content = False
        tell(self.recipients, content + b"\r\n")
        self.transport.write(b"250 kept\r\n")
        return True


def tell(recipients: list[str], content: bytes) -> None:
    """Say what the tests want to know of a message."""
    header, _, body = content.partition(b"\r\n\r\n")
    queue_id = QUEUE_ID.search(header)
    known = {
        "queue_id": queue_id[1].decode() if queue_id else "",
        "recipients": recipients,
        "stamps": [stamp.strip().decode() for stamp in STAMP.findall(header)],
        "body_bytes": len(body),
    }
    say(json.dumps(known))


def say(line: str) -> None:
    """Have a line read at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(
        Conversation, "127.0.0.1", 0, backlog=1000
    )
    say(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
