"""A milter that is killed in the middle of a message: no word of it is a verdict."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter.errors import MilterUnavailable
from aiomilter.mta import Timeouts, connect
from tests.aio.serving import until_true
from tests.faults.proxy import Gate, Proxy, Script, Step
from tests.faults.test_every_byte import ENVELOPE, MESSAGE
from tests.integration.load.process import Watched

PROGRAM = """
import asyncio, sys
from aiomilter import Milter, Status, run

class Slow(Milter):
    async def on_body(self, chunk):
        pass

    async def on_eom(self, actions):
        actions.add_header("X-First", "1")
        actions.replace_body(b"changed")
        print("at the end", flush=True)
        await asyncio.sleep(float(sys.argv[2]))
        return Status.ACCEPT

run(Slow, sys.argv[1])
"""
LIMITS = Timeouts(command=10, content=10)


@asynccontextmanager
async def slow_milter(path: Path, wait_s: float) -> AsyncIterator[Watched]:
    """Run a milter in a process of its own, until it takes connections."""

    def takes_connections() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    command = (sys.executable, "-c", PROGRAM, f"unix:{path}", str(wait_s))
    async with Watched.started(*command) as process:
        await until_true(takes_connections)
        yield process


async def send(proxy: Proxy) -> str:
    """Send the message; return the text of the error that comes of it."""
    with pytest.raises(MilterUnavailable) as caught:
        async with asyncio.timeout(15), connect(proxy.address, timeouts=LIMITS) as milter:
            await milter.send(ENVELOPE, MESSAGE)
    return str(caught.value)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_kill_while_the_verdict_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "milter"
    async with slow_milter(path, 60) as process, Proxy.before(str(path)) as proxy:
        sending = asyncio.ensure_future(send(proxy))
        await until_true(lambda: "at the end" in process.lines)
        process.send_signal(signal.SIGKILL)
        assert "instead of an answer to eom" in await sending
        assert await process.ended() == -signal.SIGKILL
        # Nobody listens there now: one error again.
        assert "instead of an answer to negotiate" in await send(proxy)
    assert not bytes(proxy.links[0].to_mta.data).endswith(b"\0\0\0\1a")
    assert b"hX-First" not in proxy.links[0].to_mta.data


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_kill_in_the_middle_of_a_packet(tmp_path: Path) -> None:
    path, gate = tmp_path / "milter", Gate()
    async with slow_milter(path, 0) as process:
        async with Proxy.before(str(path)) as whole:
            async with connect(whole.address, timeouts=LIMITS) as milter:
                await milter.send(ENVELOPE, MESSAGE)
            body_at = bytes(whole.links[0].to_milter.data).index(b"Bhello")
        script = Script(to_milter=[Step(body_at + 3, gate)])
        async with Proxy.before(str(path), script) as proxy:
            sending = asyncio.ensure_future(send(proxy))
            await gate.reached.wait()
            process.send_signal(signal.SIGKILL)
            assert await process.ended() == -signal.SIGKILL
            gate.opened.set()
            assert "instead of an answer to body" in await sending
            await until_true(proxy.links[0].is_over.is_set)
