#!/usr/bin/env python3
"""Draw docs/images/*.svg: what the commands print about the milter of the README.

    .venv/bin/python tools/draw-terminals.py

The output is real; only the address in the command's line is not the one that was used.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from aiomilter.aio.address import parse_address
from aiomilter.aio.dial import dial
from aiomilter.cli.bench_report import print_result
from aiomilter.cli.inquiry import inquire
from aiomilter.cli.load import Load, Plan
from aiomilter.cli.proxy import Proxy
from aiomilter.cli.question import Question, client_of, envelope_of, generated, message_of, offer_of
from aiomilter.cli.record import Entry
from aiomilter.cli.report import Report
from aiomilter.cli.view import line_of
from aiomilter.errors import MilterUnavailable
from aiomilter.mta import Mta

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
MILTER = ROOT / "examples" / "readme_milter.py"
MESSAGE = ROOT / "examples" / "messages" / "4-smtputf8.eml"
WIDTH = 100
PATIENCE_S = 10.0
# Without rich's fonts from another host: an image in a page must not tell who reads it.
SVG = re.sub(r"@font-face \{\{.*?\n    \}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
SVG = SVG.replace("font-family: Fira Code, monospace", "font-family: monospace")
SVG = SVG.replace("<!-- Generated with Rich https://www.textualize.io -->", "")


async def main() -> None:
    """Draw all images."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/milter"
        async with milter(address):
            await draw_check(address)
            await draw_trace(address, f"{folder}/proxy")
            await draw_bench(address)


@asynccontextmanager
async def milter(address: str) -> AsyncIterator[None]:
    """Run the example in a process of its own."""
    command = [sys.executable, "-m", "aiomilter.cli", "run", str(MILTER), "--listen", address]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await listens(address):  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        await process.wait()


async def listens(address: str) -> bool:
    """Return whether a connection can be made."""
    try:
        stream = await dial(address)
    except MilterUnavailable:
        return False
    await stream.close()
    return True


async def draw_check(address: str) -> None:
    """Draw ``check``."""
    console = terminal(
        "check inet:9900 message.eml --rcpt info@example.org --rcpt anna@example.org"
    )
    Report(console).print(await inquire(question(address)))
    save(console, "check")


async def draw_trace(address: str, path: str) -> None:
    """Draw ``trace``, with ``check`` in place of an MTA."""
    entries: list[Entry] = []
    proxy = Proxy(parse_address(address), entries.append)
    async with await asyncio.start_unix_server(proxy.accept, path):
        await inquire(question(f"unix:{path}"))
        while entries[-1].event != "close":  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)
        await proxy.stop()
    console = terminal("trace --listen inet:9901 --to inet:9900")
    for entry in entries:
        line = line_of(entry)
        line.truncate(WIDTH, overflow="ellipsis")
        console.print(line)
    save(console, "trace")


async def draw_bench(address: str) -> None:
    """Draw ``bench``."""
    console = terminal("bench inet:9900 --messages 5000")
    asked = question(address)
    asked = Question(
        address, envelope_of("sender@example.com", ["recipient1@example.org"]),
        generated(4096, 12), asked.client, {}, asked.offer, Mta.POSTFIX, PATIENCE_S,
    )  # fmt: skip
    plan = Plan(asked, 10, 5_000, None, None)
    print_result(console, await Load(plan).run(asyncio.Event()))
    save(console, "bench")


def question(address: str) -> Question:
    """Return what is asked about in two of the images."""
    return Question(
        address,
        envelope_of("sender@example.com", ["info@example.org", "anna@example.org"]),
        message_of(str(MESSAGE)),
        client_of(None, None),
        {},
        offer_of(None, ()),
        Mta.POSTFIX,
        PATIENCE_S,
    )


def terminal(command: str) -> Console:
    """Return a terminal in which a command has just been started."""
    console = Console(
        record=True, width=WIDTH, file=StringIO(), force_terminal=True, highlight=False,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    console.print(Text.assemble(("$ ", "bold green"), (f"aiomilter {command}", "bold")))
    return console


def save(console: Console, name: str) -> None:
    """Write an image."""
    path = IMAGES / f"{name}.svg"
    title = f"aiomilter {name}"
    svg = console.export_svg(title=title, theme=MONOKAI, code_format=SVG, unique_id=f"t-{name}")
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    asyncio.run(main())
