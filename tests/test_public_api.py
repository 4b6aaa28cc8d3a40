"""The milters of the first page, as they stand there, run as programs and fed with bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.mta import CONNECT, EOM, MAIL, OFFER, QUIT, RCPT, Mta, packet

IP_MILTER = """\
from aiomilter import Milter, SocketInfo, run

class IpMilter(Milter):
    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        print(f"connect from {client}")

if __name__ == "__main__":
    run(IpMilter, "unix:/run/ipmilter.sock")     # until SIGINT/SIGTERM
"""

RECIPIENT_COUNTER = """\
class RecipientCounter(Milter):
    def begin_message(self) -> None:              # called by the library for each new message
        self.recipients = 0

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        if recipient == "<nobody@example.org>":
            return Reply(550, "5.1.1", "no such user")
        self.recipients += 1
        return None                                # None means Status.CONTINUE

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Recipient-Count", str(self.recipients))
        return Status.ACCEPT
"""

ADDRESS = "unix:/run/ipmilter.sock"


@asynccontextmanager
async def running(program: str, path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program that listens on the path; it must end well after SIGTERM."""
    assert program.count(ADDRESS) == 1
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        "-c",
        program.replace(ADDRESS, f"unix:{path}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            line = await process.stderr.readline()
        assert f"INFO listening on unix:{path} (".encode() in line
        yield process
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_milter_that_prints_addresses(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    async with running(IP_MILTER, path) as process:
        async with Mta.connected_to_path(str(path)) as mta:
            # All actions on offer, and no event but the connection.
            assert await mta.ask(OFFER) == b"O\0\0\0\x06\0\0\x01\xff\0\0\x03\x7e"
            assert await mta.ask(CONNECT) == b"c"
            mta.send(QUIT)
            assert await mta.rest() == b""
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            address = packet(b"C", b"host\x006\0\x19IPv6:2001:db8::1\0")
            assert await mta.ask(address) == b"c"
        assert process.stdout is not None
        assert await process.stdout.readline() == b"connect from 192.0.2.1:12345\n"
        assert await process.stdout.readline() == b"connect from [2001:db8::1]:25\n"
    assert not path.exists()


async def test_the_milter_that_counts_recipients(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    program = (
        "from aiomilter import EomActions, Milter, Reply, Status, run\n\n"
        f"{RECIPIENT_COUNTER}\n"
        f'run(RecipientCounter, "{ADDRESS}")\n'
    )
    nobody = packet(b"R", b"<nobody@example.org>\0")
    async with running(program, path), Mta.connected_to_path(str(path)) as mta:
        assert await mta.ask(OFFER) == b"O\0\0\0\x06\0\0\x01\xff\0\0\x03\x77"
        # Both MTAs skip what was not asked for, so that a message begins with a recipient.
        for recipients in (3, 1):
            for _ in range(recipients):
                assert await mta.ask(RCPT) == b"c"
            assert await mta.ask(nobody) == b"y550 5.1.1 no such user\0"
            assert await mta.ask(EOM) == f"hX-Recipient-Count\0{recipients}\0".encode()
            assert await mta.reply() == b"a"
        # One that sends the sender all the same gets its answer.
        assert await mta.converse(MAIL, RCPT, EOM) == b"cch"
        assert await mta.reply() == b"a"
        mta.send(QUIT)
        assert await mta.rest() == b""
