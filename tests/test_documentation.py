"""The programs on the pages of the documentation work as they stand there."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from aiomilter import EomActions, Milter, Reply, Server

DOCS = Path(__file__).resolve().parent.parent / "docs"
ADDRESS = "inet:8891@127.0.0.1"


class Consulted(Milter):
    """What stands behind the address of the page."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        return Reply(550, "5.1.1", "unknown") if recipient == "<carol@example.org>" else None

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Seen", "yes")


def blocks(page: str) -> list[str]:
    """Return the Python programs of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run(block: str, address: str) -> tuple[dict[str, Any], str]:
    """Run a program with another address; return its names and its output."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(block.replace(ADDRESS, address), "the page", "exec"), names)
    return names, output.getvalue()


@pytest.mark.parametrize("number", range(3))
async def test_programs_of_the_mta_page(number: int, tmp_path: Path) -> None:
    programs = blocks("mta.md")
    assert len(programs) == 3
    address = f"unix:{tmp_path}/milter.sock"
    async with Server(Consulted, address):
        names, output = await asyncio.to_thread(run, programs[number], address)
        if number == 2:
            assert await names["ask"](address) is True
    if number == 0:
        lines = output.splitlines()
        assert lines[:2] == ["ACCEPT <carol@example.org>", "<bob@example.org>"]
        assert "X-Seen: yes" in lines
