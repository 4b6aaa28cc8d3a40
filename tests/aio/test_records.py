"""One line a message, from a server; ids in a milter's own lines; formats for the log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config
import os
import sys
import threading
from typing import Any, Literal

import pytest

from aiomilter import Config, EomActions, Milter, Observer, Server, Status, no_reply
from aiomilter.app.record import MessageRecord
from aiomilter.logs import ContextFilter, JsonFormatter, LineFormatter, current_ids, install
from tests.aio.serving import until_true
from tests.mta import CONNECT, EOM, HELO, MAIL, MESSAGE, OFFER, QUIT, Mta, macros, packet

QUEUE_ID = macros(b"R", b"i", b"4XyZ1")


class Journal(Observer):
    """Keeps what a server tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.records: list[MessageRecord] = []

    def connection_opened(self, listener: str, peer: str) -> None:
        self.told.append(("opened", listener))

    def connection_closed(self, listener: str, peer: str, seconds: float) -> None:
        self.told.append(("closed", listener))

    def session_started(self, session_id: str, listener: str) -> None:
        self.told.append(("session", listener))

    def message_finished(self, record: MessageRecord) -> None:
        self.records.append(record)

    def handler_failed(self, handler: str, kind: str) -> None:
        self.told.append(("fault", handler, kind))

    def protocol_broken(self, listener: str) -> None:
        self.told.append(("protocol", listener))

    def timed_out(self, kind: str) -> None:
        self.told.append(("timeout", kind))

    def turned_away(self, reason: str) -> None:
        self.told.append(("away", reason))


class Accepting(Milter):
    """Accepts at the end."""

    async def on_mail(self, sender: str, params: list[str]) -> None: ...

    async def on_eom(self, actions: EomActions) -> Status:
        return Status.ACCEPT


# A server and its observers


async def test_server_tells_its_observers() -> None:
    journal = Journal()
    async with (
        Server(Accepting, "inet:0", observers=[journal]) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        mta.writer.write(OFFER + CONNECT + HELO + MAIL + QUEUE_ID + EOM + QUIT)
        await until_true(lambda: "closed" in [told[0] for told in journal.told])
    label = journal.told[0][1]
    assert label.startswith("inet:")
    assert journal.told == [("opened", label), ("session", label), ("closed", label)]
    assert [(record.queue_id, record.verdict) for record in journal.records] == [
        ("4XyZ1", "accept")
    ]
    assert journal.records[0].listener == label


async def test_a12_probes_are_connections_without_session_handler_or_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made: list[Milter] = []

    def factory() -> Milter:
        made.append(Accepting())
        return made[-1]

    journal = Journal()
    caplog.set_level(logging.INFO)
    async with Server(factory, "inet:0", observers=[journal]) as server:
        caplog.clear()
        for _ in range(100):
            async with Mta.connected(server.sockets[0]):
                pass
        await until_true(lambda: len(journal.told) == 200)
        assert made == []
        for _ in range(3):
            async with Mta.connected(server.sockets[0]) as mta:
                mta.writer.write(OFFER + QUIT)
                await mta.reader.read()
        await until_true(lambda: len(journal.told) == 206)
        assert server.connections == 0
    assert {told[0] for told in journal.told} == {"opened", "closed"}
    assert journal.records == []
    assert caplog.records == []


async def test_record_of_a_message_that_the_session_ends_is_there_at_once() -> None:
    class Late(Milter):
        @no_reply
        async def on_header(self, name: str, value: str) -> None:
            raise ValueError("x")

    journal = Journal()
    async with (
        Server(Late, "inet:0", observers=[journal]) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        mta.writer.write(OFFER + packet(b"L", b"A\0b\0") + EOM)
        # The connection stays open.
        await until_true(lambda: len(journal.records) == 1)
    assert (journal.records[0].verdict, journal.records[0].stage) == ("tempfail", "header")


async def test_broken_protocol_and_lost_connection_are_told() -> None:
    journal = Journal()
    async with (
        Server(Accepting, "inet:0", observers=[journal]) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        mta.writer.write(OFFER + MAIL + packet(b"z"))
        await until_true(lambda: bool(journal.records))
        await until_true(lambda: journal.told[-1][0] == "closed")
    assert ("protocol", journal.told[0][1]) in journal.told
    assert [record.verdict for record in journal.records] == ["abort"]


async def test_slow_mta_is_told() -> None:
    journal = Journal()
    config = Config(negotiation_timeout=0.02)
    async with (
        Server(Accepting, "inet:0", config=config, observers=[journal]) as server,
        Mta.connected(server.sockets[0]),
    ):
        await until_true(lambda: ("timeout", "negotiation") in journal.told)


async def test_a47_handler_that_does_not_end_leaves_a_record() -> None:
    class Deaf(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            while not ended.is_set():
                try:
                    await ended.wait()
                except asyncio.CancelledError:
                    pass

    ended = asyncio.Event()
    journal = Journal()
    config = Config(handler_timeout=0.02, stop_grace=0)
    async with (
        Server(Deaf, "inet:0", config=config, observers=[journal]) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        mta.writer.write(OFFER + MAIL)
        await until_true(lambda: bool(journal.records))
        ended.set()
    (record,) = journal.records
    assert (record.verdict, record.stage, record.faults) == ("tempfail", "mail", 1)
    assert ("fault", "on_mail", "abandoned") in journal.told


# Formats


def record_of(text: object, *arguments: object, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord("a.b", logging.WARNING, "/x/y/z.py", 7, text, arguments, None)
    record.__dict__.update(more)
    return record


def raised() -> Any:
    try:
        raise ValueError("bad\n\x1b[31m\u202e" + "x" * 5_000)
    except ValueError:
        return sys.exc_info()


HOSTILE = [
    "a\n\r\0\x1b[31m\u202e\u2028\x7f\x9b\u200b\udcff",
    "\N{GRINNING FACE}",
    '"',
    "\\",
    "\x1b",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("times", [1, 1_000_000])
def test_a64_any_line_is_one_capped_line(text: str, times: int) -> None:
    record = record_of(
        "got %s", text * times, exc_info=raised(), session_id="s1", queue_id=text * times
    )
    ContextFilter().filter(record)
    as_json = JsonFormatter().format(record)
    assert as_json.isprintable()
    assert len(as_json.encode()) <= 2048
    assert json.loads(as_json)["message"].startswith("got ")
    line = LineFormatter("%(asctime)s %(queue_id)s %(message)s").format(record)
    assert line.isprintable()
    assert len(line.encode()) < 2048
    assert record.exc_info is not None


def test_a64_longest_record_of_a_message_fits_as_json() -> None:
    record = MessageRecord(
        session_id="ffffff.ffffffff",
        listener="\\" * 50,
        queue_id="\\" * 32,
        client="[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        hostname="\\" * 60,
        helo_name="\\" * 60,
        sender="\\" * 127,
        recipients=("\\" * 127, "\\" * 50),
        recipient_count=10**9,
        refused_recipients=10**9,
        verdict="continue",
        code=550,
        enhanced_code="5.999.999",
        stage="header",
        edits=dict.fromkeys(
            (
                "add_header",
                "insert_header",
                "change_header",
                "change_sender",
                "add_recipient",
                "delete_recipient",
                "replace_body",
                "quarantine",
            ),
            10**6,
        ),
        is_quarantined=True,
        seconds=123_456.123456,
        size_bytes=10**12,
        faults=10**6,
    )
    as_json = JsonFormatter().format(record_of("%s", record, aiomilter=record.as_dict()))
    assert len(as_json.encode()) <= 2048
    line = LineFormatter().format(record_of("%s", record))
    assert len(line.encode()) < 2048
    assert "…" not in line


def test_json_has_time_level_and_traceback_as_places() -> None:
    found = json.loads(JsonFormatter().format(record_of("x %d", 7, exc_info=raised(), created=0)))
    assert found["time"] == "1970-01-01T00:00:00.000Z"
    assert (found["level"], found["logger"], found["message"]) == ("WARNING", "a.b", "x 7")
    assert found["error"].startswith("ValueError: bad\\n\\x1b[31m\\u202exxx")
    (place,) = found["traceback"]
    assert place.startswith("aio/test_records.py:")
    assert place.endswith(" raised")


def test_line_has_its_traceback_behind_it() -> None:
    line = LineFormatter("%(levelname)s %(message)s").format(record_of("x", exc_info=raised()))
    assert line.startswith("WARNING x | ValueError: bad\\n")
    assert line.endswith(" raised")


def test_arguments_that_do_not_fit_are_no_fault() -> None:
    record = record_of("%d of %s", "x")
    assert "%d of %s (with arguments" in JsonFormatter().format(record)
    assert "%d of %s (with arguments" in LineFormatter().format(record)


def test_exception_that_cannot_be_shown_is_no_fault() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    record = record_of("x", exc_info=(Mute, Mute(), None))
    assert json.loads(JsonFormatter().format(record))["error"] == "Mute: (its text cannot be shown)"
    bare = record_of("x", exc_info=(KeyError, KeyError(), None))
    assert json.loads(JsonFormatter().format(bare))["error"] == "KeyError"


def test_formatter_is_fit_for_a_configuration(output: io.StringIO) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"ids": {"()": "aiomilter.logs.ContextFilter"}},
            "formatters": {"json": {"()": "aiomilter.logs.JsonFormatter"}},
            "handlers": {
                "here": {
                    "class": "logging.StreamHandler",
                    "formatter": "json",
                    "filters": ["ids"],
                    "stream": output,
                }
            },
            "loggers": {"tests.configured": {"handlers": ["here"], "level": "INFO"}},
        }
    )
    logger = logging.getLogger("tests.configured")
    logger.info("hello")
    logger.handlers.clear()
    found = json.loads(output.getvalue())
    assert found["message"] == "hello"
    assert "session_id" not in found


def test_installed_text_is_one_line_each(output: io.StringIO) -> None:
    install("text", "DEBUG", output)
    logging.getLogger("tests.own").debug("a\nb")
    assert output.getvalue().endswith(" DEBUG a\\nb\n")
    assert output.getvalue().count("\n") == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_tell_their_process_if_asked_for(
    output: io.StringIO, log_format: Literal["text", "json"]
) -> None:
    install(log_format, "DEBUG", output, show_process=True)
    logging.getLogger("tests.own").debug("a")
    line = output.getvalue()
    if log_format == "json":
        assert json.loads(line)["process"] == os.getpid()
    else:
        assert line.endswith(f" {os.getpid()} DEBUG a\n")


def test_format_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="text or json"):
        install("xml")  # type: ignore[arg-type]  # that is the test


def test_other_threads_have_no_ids() -> None:
    seen: list[tuple[str | None, str | None]] = []
    thread = threading.Thread(target=lambda: seen.append(current_ids()))
    thread.start()
    thread.join(5)
    assert seen == [(None, None)]


async def test_each_message_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "aiomilter.message"):
        async with Server(Accepting, "inet:0") as server, Mta.connected(server.sockets[0]) as mta:
            mta.writer.write(OFFER + CONNECT + HELO + b"".join((*MESSAGE, *MESSAGE)) + QUIT)
            await mta.reader.read()
    lines = [r.getMessage() for r in caplog.records if r.name == "aiomilter.message"]
    assert len(lines) == 2
    assert all("accept at eom" in line and "\n" not in line for line in lines)
