"""What the programs do on the pages about aiosmtpd, logs, metrics, services and workers.

Those that serve by themselves are run as they are, in a process of their own.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import runpy
import shutil
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosmtpd.controller
import pytest
from aiosmtpd.controller import Controller

import aiomilter
from aiomilter import EomActions, MessageRecord, Milter, Server, Status
from aiomilter.cli.packets import describe
from aiomilter.logs import JsonFormatter
from aiomilter.mta import Client, Envelope, Outcome, connect
from aiomilter.testing.pytest_plugin import MakeMilterTester
from aiomilter.testing.servers.ports import ReservedPort
from aiomilter.testing.servers.smtp import SmtpClient
from examples.howto import log_ids, mailbox, move_and_replace, slow_messages
from tests.cli.running import Running
from tests.docs.site import ROOT

HOWTO = ROOT / "examples" / "howto"
MESSAGE = b"From: a@src.example\r\nSubject: hello\r\n\r\nfoo and foo\r\n"
CLIENT = Client("mx.example.com", "198.51.100.7")
PATIENCE_S = 20.0


async def send(address: str, sender: str = "a@src.example") -> Outcome:
    async with asyncio.timeout(PATIENCE_S), connect(address) as milter:
        return await milter.send(Envelope(sender, ["b@dst.example"]), MESSAGE, client=CLIENT)


def start_main(program: str, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Any, ...], Any]:
    """Run a program up to its call of `run`; return the arguments of that."""
    calls: list[tuple[tuple[Any, ...], Any]] = []
    monkeypatch.setattr(aiomilter, "run", lambda *args, **options: calls.append((args, options)))
    runpy.run_path(str(HOWTO / f"{program}.py"), run_name="__main__")
    (call,) = calls
    return call


@pytest.fixture
def own_log() -> Iterator[None]:
    """Leave the loggers as they were."""
    loggers = [logging.getLogger(name) for name in ("mymilter", "aiomilter.message")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
        logger.handlers.clear()


# aiosmtpd.md


class Tagging(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        pass  # with a handler, `self.recipients` is known

    async def on_eom(self, actions: EomActions) -> None:
        actions.change_header("Subject", 1, "tagged")
        if "<hold@dst.example>" in self.recipients:
            actions.quarantine("smells of spam")


@pytest.mark.parametrize(
    ("kind", "said"), [(mailbox.Mailbox, "taken"), (mailbox.HoldingMailbox, "held")]
)
async def test_a_mailbox_gets_what_milters_let_pass(
    tmp_path: Path, kind: type[mailbox.Mailbox], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{tmp_path}/milter.sock"
    with ReservedPort() as port:
        async with Server(Tagging, address):
            controller = await asyncio.to_thread(
                mailbox.start, kind(), address, address, port=port.number
            )
            try:
                async with SmtpClient.connect(port.number) as smtp:
                    await smtp.ehlo()
                    assert (await smtp.message(MESSAGE)).text == "2.0.0 taken"
                    held = await smtp.message(MESSAGE, recipients=["hold@dst.example"])
                    assert held.text == f"2.0.0 {said}"
            finally:
                await asyncio.to_thread(controller.stop)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(" a@src.example ['b@dst.example']")
    assert "Subject: tagged" in lines[1]
    if said == "held":
        assert lines[2].endswith(" is held: smells of spam")
    else:
        assert lines[2].endswith(" a@src.example ['hold@dst.example']")


def test_the_mailbox_listens_where_the_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    class Noting(Controller):
        def start(self) -> None:
            done.append(f"{self.hostname}:{self.port}")

        def stop(self, no_assert: bool = False) -> None:
            self.loop.close()
            done.append("stopped")

    monkeypatch.setattr(aiosmtpd.controller, "Controller", Noting)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    runpy.run_path(str(HOWTO / "mailbox.py"), run_name="__main__")
    assert done == ["127.0.0.1:8025", "stopped"]
    assert capsys.readouterr().out == "Enter ends it.\n"


# observability.md


async def test_own_lines_have_the_ids_of_session_and_message(
    tmp_path: Path, own_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{tmp_path}/milter.sock"
    log_ids.set_up_log()
    async with Server(log_ids.Telling, address):
        await send(address)
    lines = capsys.readouterr().err
    assert re.fullmatch(r"[\d-]+ \S+ \[[0-9a-f]+\.\d+ \w+\] all of it is here\n", lines)


def test_the_program_with_ids_sets_up_its_log(
    own_log: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, options = start_main("log_ids", monkeypatch)
    assert arguments[1:] == ("inet:9900",)
    assert options == {}
    assert len(logging.getLogger("mymilter").handlers) == 1


@pytest.mark.parametrize(("limit_s", "count"), [(0.0, 1), (60.0, 0)])
async def test_slow_messages_alone_are_told_of(
    tmp_path: Path,
    limit_s: float,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"unix:{tmp_path}/milter.sock"
    monkeypatch.setattr(slow_messages, "LIMIT_S", limit_s)
    (slow,) = slow_messages.observers()
    assert isinstance(slow, slow_messages.Slow)
    async with Server(slow_messages.Tagger, address, observers=[slow]):
        delivery = (await send(address)).apply()
        assert delivery is not None
        assert b"X-Seen: yes" in delivery.content.as_bytes()
    assert slow.count == count
    said = [record.getMessage() for record in caplog.records if record.name == "mymilter"]
    assert len(said) == count
    assert all(re.fullmatch(r"message \w+ took \d+\.\d s", line) for line in said)


async def test_the_line_for_each_message_goes_away(
    tmp_path: Path,
    own_log: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"unix:{tmp_path}/milter.sock"
    caplog.set_level(logging.INFO)
    lines: list[int] = []
    for is_quiet in (False, True):
        if is_quiet:
            arguments, options = start_main("slow_messages", monkeypatch)
            assert arguments[1:] == ("inet:9900",)
            assert [type(one).__name__ for one in options["observers"]] == ["Slow"]
        caplog.clear()
        async with Server(slow_messages.Tagger, address):
            await send(address)
        lines.append(sum(record.name == "aiomilter.message" for record in caplog.records))
    assert lines == [1, 0]


# By itself, `serve` ends when its caller says so.
SERVE = """
import asyncio, logging, signal
from examples.howto import metrics

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await metrics.serve(stop, "unix:m.sock", PORT)

logging.basicConfig(level=logging.INFO)
asyncio.run(main())
"""
RUN = """
from examples.howto import metrics
metrics.main("unix:m.sock", PORT)
"""


@pytest.mark.parametrize("program", [SERVE, RUN], ids=["serve", "run"])
async def test_metrics_are_served(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "program.py"
    with ReservedPort() as port:
        path.write_text(program.replace("PORT", str(port.number)), encoding="utf-8")
        async with Running.started(tmp_path, program=str(path)) as running:
            await running.until("listening on")
            await send(f"unix:{tmp_path}/m.sock")
            text = await asyncio.to_thread(get, f"http://127.0.0.1:{port.number}/metrics")
            await running.end()
    assert "aiomilter_build_info{" in text
    assert 'aiomilter_connections_total{listener="unix:m.sock"} 1.0' in text


def get(url: str) -> str:
    """Fetch a page from this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE_S) as answer:
        text: str = answer.read().decode()
    return text


def test_the_lines_of_the_page_are_as_the_library_writes_them() -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```json\n(.*)\n```", page, flags=re.MULTILINE)
    (lines,) = re.findall(r"^```text\n(.*)\n(.*)\n```", page, flags=re.MULTILINE)
    told = json.loads(shown)
    fields = told["mail"] | {name: told[name] for name in ("session_id", "queue_id")}
    accepted = MessageRecord(**fields | {"recipients": tuple(fields["recipients"])})
    rejected = replace(
        accepted,
        session_id="4b1f.2a",
        queue_id="4XyZ1",
        client="192.0.2.1:51234",
        verdict="reject",
        stage="rcpt",
        code=550,
        enhanced_code="5.7.1",
        refused_recipients=1,
        edits={},
        size_bytes=0,
        seconds=0.004,
    )
    assert [str(rejected), str(accepted)] == list(lines)
    record = logging.makeLogRecord(
        {
            "name": "aiomilter.message",
            "levelname": "INFO",
            "levelno": logging.INFO,
            "created": datetime.fromisoformat(told["time"]).timestamp(),
            "aiomilter": accepted.as_dict(),
            "session_id": accepted.session_id,
            "queue_id": accepted.queue_id,
        }
    )
    assert json.loads(JsonFormatter().format(record)) == told
    assert JsonFormatter().format(record) == shown


# systemd.md


async def test_a_list_is_read_again_at_sighup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "senders"
    blocked.write_text("<Joe@src.example>\n", encoding="utf-8")
    monkeypatch.setenv("BLOCKLIST", str(blocked))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/m.sock")
        listener.listen()
        # As systemd does: descriptor 3, of a name, for this process alone.
        shell = (
            f"exec 3<&{listener.fileno()}; "
            "LISTEN_FDS=1 LISTEN_FDNAMES=mta LISTEN_PID=$$ "
            f"exec {sys.executable} {HOWTO}/reload_list.py"
        )
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", shell),
            pass_fds=[listener.fileno()],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        running = Running(process)
        try:
            await running.until("listening on systemd:mta")
            assert await refused(tmp_path, "joe@src.example", "ann@src.example") == [True, False]
            blocked.write_text("<ann@src.example>\n", encoding="utf-8")
            process.send_signal(signal.SIGHUP)
            await running.until("reloaded in")
            assert await refused(tmp_path, "joe@src.example", "ann@src.example") == [False, True]
            blocked.unlink()
            process.send_signal(signal.SIGHUP)
            await running.until("FileNotFoundError")
            assert await refused(tmp_path, "joe@src.example", "ann@src.example") == [False, True]
            await running.end()
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def refused(folder: Path, *senders: str) -> list[bool]:
    """Tell for each sender whether it is refused."""
    outcomes = [await send(f"unix:{folder}/m.sock", sender) for sender in senders]
    return [outcome.status is Status.REJECT for outcome in outcomes]


# workers.md


async def test_several_processes_serve_and_each_has_its_observers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("refuse", "several_processes", "slow_messages"):
        shutil.copy(HOWTO / f"{name}.py", tmp_path)
    slow = tmp_path / "slow_messages.py"
    text = slow.read_text(encoding="utf-8")
    assert "LIMIT_S = 5.0\n" in text
    slow.write_text(text.replace("LIMIT_S = 5.0\n", "LIMIT_S = 0.0\n"), encoding="utf-8")
    program = str(tmp_path / "several_processes.py")
    async with Running.started(tmp_path, "unix:m.sock", program=program) as running:
        for _ in range(5):  # the process above, and four workers
            await running.until("listening on")
        for _ in range(3):
            outcome = await send(f"unix:{tmp_path}/m.sock")
            assert str(outcome.reply).startswith("550-5.6.0 this message has no Date header / ")
            await running.until("WARNING:mymilter:message ")
        await running.end()


# whole-messages.md


def test_a_header_moves_to_the_top_and_a_word_is_replaced(
    milter_tester: MakeMilterTester,
) -> None:
    tester = milter_tester(move_and_replace.MoveAndReplace)
    result = tester.send(MESSAGE.replace(b"\r\n\r\n", b"\r\nX-Trace:  as it came\r\n\r\n"))
    result.assert_body_replaced(b"bar and bar\r\n")
    assert result.message is not None
    assert result.message.as_bytes().startswith(b"X-Trace:  as it came\r\nFrom: a@src.example")
    result = tester.send(MESSAGE)
    result.assert_body_replaced(b"bar and bar\r\n")
    assert len(result.edits) == 1


# reference/records.md


def test_the_lines_of_a_record_are_as_trace_writes_them() -> None:
    page = (ROOT / "docs" / "reference" / "records.md").read_text(encoding="utf-8")
    lines = re.findall(r'^\{"t":.*\}$', page, flags=re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        told = json.loads(line)
        found = describe(told["from"], bytes.fromhex(told["data"]))
        assert (found.name, found.fields) == (told["name"], told["fields"])
