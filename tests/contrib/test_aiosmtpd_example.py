"""The example: an SMTP server that prints what milters let pass."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from aiomilter import Config, EomActions, Milter, Server, Status
from aiomilter.testing.servers.smtp import SmtpClient
from tests.contrib.rig import MESSAGE, address_of

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20.0


class Tag(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        """Be told of recipients, which are kept by themselves."""

    async def on_eom(self, actions: EomActions) -> Status:
        actions.change_header("Subject", 1, "[tag] hello")
        if "<hold@dst.example>" in self.recipients:
            actions.quarantine("smells of spam")
        return Status.ACCEPT


async def test_the_example_prints_what_milters_let_pass() -> None:
    async with Server(Tag, "inet:0", config=Config(stop_grace=0)) as milter:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "examples" / "aiosmtpd_server.py"),
            address_of(milter),
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PORT": "0"},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = (await process.stdout.readline()).decode()
                found = re.fullmatch(r"listening on port (\d+)\n", line)
                assert found, line
                async with SmtpClient.connect(int(found[1])) as smtp:
                    await smtp.ehlo()
                    reply = await smtp.message(MESSAGE)
                    assert re.fullmatch(r"2\.0\.0 printed as \w{16}", reply.text)
                    held = await smtp.message(MESSAGE, recipients=["hold@dst.example"])
                    assert held.code == 451
        finally:
            process.terminate()
            output, _ = await process.communicate()
    printed = output.decode()
    assert " a@src.example -> b@dst.example\nSubject: [tag] hello\n" in printed
    assert printed.endswith("not taken: smells of spam\n")
