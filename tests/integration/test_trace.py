"""`aiomilter trace` between a real Postfix and a milter: mail and answers stay the same."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter import EomActions, Milter, Reply, Server, Status
from aiomilter.testing.servers.smtp import SmtpClient
from tests.integration.rig import Rig

pytestmark = pytest.mark.xdist_group("postfix")

TIMEOUT_S = 20
CONTENT = b"Subject: traced\r\n\r\nfirst line\r\n" + b"x" * 70 + b"\r\n"


class Gate(Milter):
    """Refuses one recipient, and edits what comes through."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        closed = recipient == "<closed@dst.example>"
        return Reply(550, "5.1.1", "100% closed") if closed else None

    async def on_body(self, chunk: bytes) -> None:
        pass

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Gate", "passed")
        actions.add_recipient("<archive@dst.example>")
        return Status.ACCEPT


async def aiomilter(*arguments: str) -> asyncio.subprocess.Process:
    """Start the command line."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiomilter.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def tracing(listen: str, to: str, record: Path) -> AsyncIterator[None]:
    """Stand between the two addresses until the block ends, which must be without fault."""
    process = await aiomilter(
        *("trace", "--listen", listen, "--to", to, "--record", str(record)),
        *("--unix-group", "postfix"),
    )
    assert process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stderr.readline(), TIMEOUT_S)
        assert line.startswith(b"listening on "), line
        yield
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        assert process.returncode == 0, errors.decode()
        assert b" packets, recorded in " in errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_mail_passes_a_trace_unchanged_and_its_record_replays(
    rig: Rig, tmp_path: Path, listener: str
) -> None:
    milter = f"unix:{tmp_path}/milter.sock"
    record = tmp_path / "record.jsonl"
    async with Server(Gate, milter):
        async with (
            tracing(rig.addresses[listener], milter, record),
            SmtpClient.connect(rig.postfix.port(listener)) as smtp,
        ):
            await smtp.ehlo()
            reply = await smtp.message(CONTENT)
            delivery = await rig.delivery(reply)
            await smtp.command("MAIL FROM:<a@src.example>")
            refused = await smtp.command("RCPT TO:<closed@dst.example>")
        replayed = await aiomilter("replay", str(record), milter)
        output, errors = await asyncio.wait_for(replayed.communicate(), TIMEOUT_S)
    assert delivery.body == CONTENT.partition(b"\r\n\r\n")[2]
    assert delivery.own_header_lines == [b"Subject: traced", b"X-Gate: passed"]
    assert sorted(delivery.recipients) == ["<archive@dst.example>", "<b@dst.example>"]
    assert (refused.code, refused.text) == (550, "5.1.1 100% closed")
    assert replayed.returncode == 0, (output + errors).decode()
    assert b"1 connection, all answers as recorded" in output
