"""A milter that is a process of its own, started as its users do."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter.testing.servers.smtp import SmtpClient
from tests.integration.rig import Rig

pytestmark = pytest.mark.xdist_group("postfix")

IPMILTER = Path(__file__).parents[2] / "examples" / "ipmilter.py"
TIMEOUT_S = 15


async def wait_until_listening(path: Path, process: asyncio.subprocess.Process) -> None:
    """Return as soon as a process accepts connections on a unix socket.

    Raises:
        RuntimeError: The process has ended instead.
        TimeoutError: It takes too long.
    """
    async with asyncio.timeout(TIMEOUT_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_unix_connection(path)
            except (FileNotFoundError, ConnectionRefusedError):
                # Nothing tells a stranger that a socket has begun to listen: so knock again soon.
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
    raise RuntimeError(f"the milter ended with status {process.returncode}")


@asynccontextmanager
async def ipmilter(address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the example as its users do."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", str(IPMILTER), address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_example_prints_the_address_of_the_client(rig: Rig) -> None:
    path = rig.unix_path
    async with ipmilter(rig.addresses["unix"]) as process:
        await wait_until_listening(path, process)
        # The socket is 0660, and the example knows nothing of Postfix's group.
        await asyncio.to_thread(os.chown, path, -1, rig.postfix_group)
        async with SmtpClient.connect(rig.postfix.port("unix")) as smtp:
            await smtp.ehlo()
            reply = await smtp.message(b"Subject: x\r\n\r\nbody\r\n")
            port = smtp.local_port
        assert (await rig.delivery(reply)).body == b"body\r\n"
        process.send_signal(signal.SIGTERM)
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == 0, errors.decode()
    assert f"connect from 127.0.0.1:{port}" in output.decode().splitlines()
    assert not await asyncio.to_thread(path.exists)
