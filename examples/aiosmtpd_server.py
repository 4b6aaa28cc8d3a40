"""An SMTP server that consults milters, and prints the mail that they let pass.

    pip install 'aiomilter[aiosmtpd]'
    python examples/aiosmtpd_server.py MILTER [MILTER ...]

For example, with OpenDKIM and a milter from here:

    python examples/subject_tag.py inet:9900 &
    python examples/aiosmtpd_server.py inet:8891@127.0.0.1 inet:9900@127.0.0.1

It listens on port 8025 of the loopback address, or on $PORT.
"""

import asyncio
import os
import sys
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from aiomilter.contrib.aiosmtpd import FilteredEnvelope, MilterHandler

__all__ = ["Printer"]


class Printer:
    """Prints mail. What a milter wants to be held for an administrator is refused for now."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        filtered = cast("FilteredEnvelope", envelope)
        print(f"{filtered.queue_id}: {filtered.mail_from} -> {', '.join(filtered.rcpt_tos)}")
        assert filtered.original_content is not None
        print(filtered.original_content.decode(errors="replace").replace("\r\n", "\n"), flush=True)
        return f"250 2.0.0 printed as {filtered.queue_id}"

    async def handle_QUARANTINE(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, reason: str
    ) -> str:
        print(f"not taken: {reason}", flush=True)
        return "451 4.7.1 Held for an administrator"


async def main(milters: list[str]) -> None:
    handler = MilterHandler(Printer(), *milters)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, enable_SMTPUTF8=True, loop=loop),
        "127.0.0.1",
        int(os.environ.get("PORT", "8025")),
    )
    async with server:
        print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except KeyboardInterrupt:
        pass
