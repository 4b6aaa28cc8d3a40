"""The milter of a case at work, in this process or in one of its own."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiomilter.aio.server import MilterFactory, Server
from aiomilter.testing.servers.case import Case
from aiomilter.testing.servers.milter_process import LISTENING
from aiomilter.testing.servers.notes import Notes
from aiomilter.testing.servers.script import Script
from aiomilter.testing.servers.template import CaseError

__all__ = ["served"]

_PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.005


@asynccontextmanager
async def served(
    case: Case, script: Script, address: str, notes: Notes, *, factory: MilterFactory | None = None
) -> AsyncGenerator[None]:
    """Serve the milter of a case within a block.

    The block ends when the mail server has closed all its connections.

    Args:
        case: The case.
        script: Its milter.
        address: Where to listen.
        notes: Where the milter notes.
        factory: Another milter than the one of the case.

    Raises:
        CaseError: There is no milter, or it does not start.
        TimeoutError: The mail server keeps a connection open.
    """
    if factory is None and script.factory is None:
        raise CaseError(f"{case.path}: there is no milter: neither in the case nor given")
    if case.settings.own_process and factory is None:
        async with _process(case, address, notes):
            yield
        return
    chosen = factory or script.factory
    assert chosen is not None
    async with Server(chosen, address, config=script.config) as server:
        yield
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while server.connections:  # noqa: ASYNC110  (a server has no event for it)
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            raise TimeoutError(
                f"the mail server keeps {server.connections} connection(s) to the milter open"
            ) from None


@asynccontextmanager
async def _process(case: Case, address: str, notes: Notes) -> AsyncGenerator[None]:
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "aiomilter.testing.servers.milter_process"),
            *(str(case.path), address, str(notes.path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), _PATIENCE_S)
            if line != LISTENING:
                errors.seek(0)
                said = errors.read().decode("utf-8", "backslashreplace")
                raise CaseError(f"{case.path}: the milter did not start: {said}")
            yield
            process.stdin.close()
            await asyncio.wait_for(process.wait(), _PATIENCE_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
