"""The examples as programs of their own: their command line, how they start and stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.peer import Peer

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
PARTS_OF_THE_DEMO = {"demo", "demo_account"}
TESTS = {path.stem for path in EXAMPLES.glob("test_*.py")}
PROGRAMS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - PARTS_OF_THE_DEMO - TESTS)
WITH_ADDRESSES = [name for name in PROGRAMS if name not in ("readme_milter", "aiosmtpd_server")]
PATIENCE_S = 10.0


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def test_the_programs_are_listed() -> None:
    listed = re.findall(
        r"^\| `(\w+)\.py` ", (EXAMPLES / "README.md").read_text("utf-8"), flags=re.MULTILINE
    )
    assert sorted(listed) == sorted([*PROGRAMS, *PARTS_OF_THE_DEMO, *TESTS])


@pytest.mark.parametrize("name", WITH_ADDRESSES)
def test_head_says_how_to_run_it(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text("utf-8")
    assert f"    python examples/{name}.py [ADDRESS ...]" in source
    assert "    smtpd_milters = inet:127.0.0.1:9900\n" in source
    assert "    INPUT_MAIL_FILTER(" in source
    assert 'Config(unix_group="postfix")' in source
    assert '*(sys.argv[1:] or ["inet:9900"])' in source


@pytest.mark.parametrize("name", WITH_ADDRESSES)
def test_wrong_address_is_one_clear_line(name: str) -> None:
    run = subprocess.run(
        command(name, "inet:70000"), env=environment(), capture_output=True, text=True, check=False
    )
    assert run.stderr == "aiomilter: 'inet:70000': a port is at most 65535\n"
    assert (run.returncode, run.stdout) == (1, "")


@pytest.mark.parametrize("name", WITH_ADDRESSES)
async def test_program_serves_until_it_is_told_to_stop(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(name, "inet:0"), env=environment(), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stderr.readline()).decode()
            match = re.search(r"listening on inet:(\d+)@127\.0\.0\.1", line)
            assert match, line
            peer = await Peer.connect(int(match[1]))
            await peer.close()
            process.send_signal(signal.SIGTERM)
            _, log = await process.communicate()
        assert process.returncode == 0
        assert log.decode().endswith("INFO stopped\n")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
