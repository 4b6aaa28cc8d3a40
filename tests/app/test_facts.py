"""Facts of a session and its message, and the log that carries their ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from aiomilter import Milter, SocketInfo
from aiomilter.app import context
from aiomilter.app.facts import Facts, SessionLog, fact
from aiomilter.session.macros import MacroStore
from aiomilter.wire.commands import Connect


@pytest.fixture(autouse=True)
def _no_context_stays() -> Iterator[None]:
    """What is entered outside of any task would be there for all other tests."""
    yield
    context._current.set(None)


def facts_with(queue_id: bytes | None = None) -> Facts:
    store = MacroStore()
    if queue_id is not None:
        assert store.store(b"Mi\0" + queue_id + b"\0")
    return Facts("1f.2", store)


def milter_with(facts: Facts) -> Milter:
    milter = Milter()
    milter._facts = facts
    return milter


def test_at_first_nothing_is_known() -> None:
    milter = milter_with(facts_with())
    assert milter.hostname is None
    assert milter.client == SocketInfo("unknown")
    assert milter.helo_name is None
    assert milter.sender is None
    assert milter.recipients == ()
    assert milter.queue_id is None
    assert dict(milter.macros) == {}
    assert milter.session_id == "1f.2"


def test_connect_tells_name_and_address() -> None:
    facts = facts_with()
    milter = milter_with(facts)
    assert str(milter.client) == "unknown"
    facts.connect = Connect(b"mx\xff", b"4", 25, b"192.0.2.1")
    assert milter.hostname == "mx\udcff"
    assert str(milter.client) == "192.0.2.1:25"
    assert milter.client is milter.client


def test_a_new_message_begins_without_the_facts_of_the_last() -> None:
    facts = facts_with()
    milter = milter_with(facts)
    facts.sender, facts.helo_name = "<a>", "mx"
    facts.add_recipient("<b>")
    before = milter.recipients
    facts.begin_message()
    assert (milter.sender, milter.recipients, milter.helo_name) == (None, (), "mx")
    assert before == ("<b>",)


def test_the_queue_id_is_the_macro_i() -> None:
    milter = milter_with(facts_with(b"4XyZ"))
    assert milter.queue_id == "4XyZ"
    assert milter.macros is milter.macros


def test_a_subclass_may_take_the_name_of_a_fact() -> None:
    class Counter(Milter):
        def __init__(self) -> None:
            self.recipients = 0  # type: ignore[assignment]  # another type on purpose

    facts = facts_with()
    facts.add_recipient("<b>")
    counter, other = Counter(), Counter()
    counter._facts = other._facts = facts
    counter.recipients += 1  # type: ignore[operator]
    counts: list[object] = [counter.recipients, other.recipients]
    assert counts == [1, 0]
    assert facts.recipients == ["<b>"]
    assert milter_with(facts).recipients == ("<b>",)


def test_a_fact_is_documented_and_can_be_looked_at_on_the_class() -> None:
    assert isinstance(Milter.queue_id, fact)
    assert "id of the message" in str(Milter.queue_id.__doc__)


class Keeper(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def logged(facts: Facts, message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    """Return the record that a line through a `SessionLog` becomes."""
    keeper = Keeper()
    logger = logging.getLogger("aiomilter.tests")
    logger.addHandler(keeper)
    try:
        SessionLog(logger, facts).warning(message, *arguments, **more)
    finally:
        logger.removeHandler(keeper)
    (record,) = keeper.records
    return record


def test_a_line_carries_both_ids() -> None:
    record = logged(facts_with(b"4XyZ"), "seen %d of %s", 3, "it")
    assert record.getMessage() == "[1f.2 4XyZ] seen 3 of it"
    assert record.__dict__["session_id"] == "1f.2"
    assert record.__dict__["queue_id"] == "4XyZ"


def test_a_line_before_there_is_a_queue_id_has_a_dash() -> None:
    record = logged(facts_with(), "seen")
    assert record.getMessage() == "[1f.2 -] seen"
    assert record.__dict__["queue_id"] is None


def test_extra_attributes_of_a_line_are_kept() -> None:
    record = logged(facts_with(), "seen", extra={"verdict": "spam"})
    assert record.__dict__["verdict"] == "spam"
    assert record.__dict__["session_id"] == "1f.2"


@pytest.mark.parametrize(
    "queue_id",
    [b"a\nb", b"a\r\nFAKE line", b"%s%n%d", b"\x1b[31m", "\u202e".encode(), b"\xff", b""],
)
def test_a_queue_id_cannot_forge_a_line(queue_id: bytes) -> None:
    record = logged(facts_with(queue_id), "seen %d", 3)
    text = record.getMessage()
    assert text.startswith("[1f.2 ")
    assert text.endswith("] seen 3")
    assert text.isascii()
    assert text.isprintable()
    assert record.__dict__["queue_id"] == queue_id.decode("utf-8", "surrogateescape")


def test_a_long_queue_id_is_cut_tidily() -> None:
    text = logged(facts_with(b"x" * 1_000), "seen").getMessage()
    assert text.startswith("[1f.2 " + "x" * 32)
    assert len(text) < 80
    assert text.count("'") % 2 == 0, "a quote that opens is one that closes"


def test_the_log_of_a_milter_is_its_own_logger() -> None:
    milter = milter_with(facts_with())
    assert milter.log is milter.log
    assert milter.log.logger.name == "aiomilter.milter"
