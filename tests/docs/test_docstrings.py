"""The examples in docstrings, of which the reference is made.

The type checker reads each, with the names that it takes for granted. All but a few are run, with
addresses of their own.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import prometheus_client
import pytest

import aiomilter.contrib.gunicorn
import aiomilter.contrib.prometheus
from aiomilter import Server
from tests.docs.site import ROOT

SOURCES = ROOT / "src"
PRELUDE = """
import asyncio
import logging
from pathlib import Path

from aiosmtpd.smtp import SMTP, Session

from aiomilter import EomActions, Message, MessageRecord, Milter, Observer, ProcessPool, Reply
from aiomilter import Server, run
from aiomilter.app.mta.conversation import Conversation
from aiomilter.contrib.aiosmtpd import FilteredEnvelope
from aiomilter.contrib.opentelemetry import OpenTelemetryObserver
from aiomilter.mta import Envelope, connect
from aiomilter.session.filter import FilterSession
from aiomilter.session.mta import MtaSession
from aiomilter.testing import AsyncMilterTester, MilterTester
from aiomilter.testing.servers import MailServers, load_cases
from aiomilter.wire.commands import Command

message = b"Subject: hello\\r\\n\\r\\nHello!\\r\\n"
delivered: list[bytes] = []


class MyMilter(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        return Reply(550, "5.1.1", "no") if recipient == "<nobody@example.org>" else None

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Seen", "yes")


class MyHandler:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: FilteredEnvelope) -> str:
        return "250 taken"


def deliver(envelope: Envelope, content: bytes) -> None:
    delivered.append(content)


def classify(message: bytes) -> float:
    return len(message)


async def something_else() -> None:
    delivered.append(b"something else")
"""
NOT_RUN = {
    # Loops around what their callers have. The names are for the type checker.
    "aiomilter.app.mta.conversation": "conversation: Conversation, sender: str",
    "aiomilter.session.filter": (
        "session: FilterSession, data: bytes, transport: asyncio.WriteTransport"
    ),
    "aiomilter.session.mta": "session: MtaSession, command: Command",
    # With mail servers, and so as root: tests/integration/test_mail_servers_page.py does the same.
    "aiomilter.testing.servers": "",
    "aiomilter.testing.servers.runner": "",
}


def examples() -> dict[str, str]:
    """Return all programs in docstrings, by module and name."""
    found: dict[str, str] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = f"{ast.get_docstring(node)}\n"
            for block in re.findall(r"^.*::\n\n((?: {4}.*\n|\n)+)", text, flags=re.MULTILINE):
                code = textwrap.dedent(block).strip() + "\n"
                try:
                    compile(code, module, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                except SyntaxError:
                    continue  # a tree, a table, a case
                name = "" if isinstance(node, ast.Module) else f":{node.name}"
                found[module + name] = code
    return found


EXAMPLES = examples()


def test_the_type_checker_has_no_objection_to_any(tmp_path: Path) -> None:
    assert len(EXAMPLES) > 15
    text = PRELUDE
    for number, (name, code) in enumerate(EXAMPLES.items()):
        given = NOT_RUN.get(name, "")
        text += f"\n\nasync def example_{number}({given}) -> None:  # {name}\n"
        text += textwrap.indent(code, "    ")
    program = tmp_path / "examples_of_docstrings.py"
    program.write_text(text, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", program],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = run.stdout.splitlines()
    sources = text.splitlines()
    numbers = [re.search(r":(\d+):", line) for line in lines]
    shown = [sources[int(found[1]) - 1] if found else "" for found in numbers]
    assert run.returncode == 0, list(zip(lines, shown, strict=True))


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - NOT_RUN.keys()))
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(aiomilter, "run", lambda *args, **_: started.append(args))
    gunicorn = aiomilter.contrib.gunicorn
    monkeypatch.setattr(gunicorn, "run_workers", lambda *args, **_: started.append(args))
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(aiomilter.contrib.prometheus, "REGISTRY", registry)
    address = f"unix:{tmp_path}/m.sock"
    code = EXAMPLES[name].replace("inet:8891@127.0.0.1", address)
    code = code.replace('Server(MyMilter, "inet:8890"', 'Server(MyMilter, "inet:0"')
    code = code.replace("port=9464", "port=0")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(PRELUDE, names)

    async def drive(coroutine: Awaitable[None]) -> None:
        async with Server(names["MyMilter"], address):
            await coroutine

    # With `await` in it, it is a coroutine; without, it is done when this has returned.
    result: object = eval(compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(result):
        asyncio.run(drive(cast("Awaitable[None]", result)))
    if "controller" in names:
        names["controller"].loop.close()
    for test in [value for key, value in names.items() if key.startswith("test_")]:
        test()
    assert bool(started) is bool(re.search(r"^ *run(_workers)?\(", code, re.MULTILINE))
    if "deliver(" in code:
        assert b"X-Seen: yes" in names["delivered"][0]
