"""Debian's miltertest (of OpenDKIM): an MTA's end that is told in Lua what to say and to expect."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.peers.programs import find_program

__all__ = ["run_script"]

_FOLDER = Path(__file__).resolve().parent
_LIMIT_S = 20.0


async def run_script(name: str, address: str) -> list[str]:
    """Run a script of this folder against a milter; return the lines that it prints.

    Args:
        name: The script's name, without its extension.
        address: Of the milter, as ``inet:PORT@HOST``.

    Raises:
        AssertionError: The script says that something is not as it should be.
    """
    command = [find_program("miltertest", "miltertest"), "-s", str(_FOLDER / f"{name}.lua")]
    process = await asyncio.create_subprocess_exec(
        *command,
        "-D",
        f"sock={address}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_LIMIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode(errors="replace")
    return output.decode().splitlines()
