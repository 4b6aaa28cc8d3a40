"""What observers are told, and the record of each message, without a socket."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from aiomilter import EomActions, Milter, Reply, SocketInfo, Status, no_reply
from aiomilter.app.context import MessageContext, current_context
from aiomilter.app.dispatch import Dispatcher
from aiomilter.app.handlers import HandlerKind
from aiomilter.app.host import Clock, Cut, FaultPolicy
from aiomilter.app.observer import Observer, Observers
from aiomilter.app.record import MessageRecord, count_edits, cut_recipients, cut_text
from aiomilter.app.watch import Observation
from aiomilter.session.events import ConnectionEnd
from aiomilter.session.filter import FilterSession
from tests.mta import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    macros,
    offer,
    packet,
    split_packets,
)

TEMPFAIL = FaultPolicy(Status.TEMPFAIL, 8.0, 240.0)
QUEUE_ID = macros(b"R", b"i", b"4XyZ1")


class Journal(Observer):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.records: list[MessageRecord] = []

    def session_started(self, session_id: str, listener: str) -> None:
        self.told.append(("session", session_id, listener))

    def message_finished(self, record: MessageRecord) -> None:
        self.records.append(record)

    def handler_finished(self, handler: str, seconds: float, result: str) -> None:
        self.told.append((handler, seconds, result))

    def handler_failed(self, handler: str, kind: str) -> None:
        self.told.append(("fault", handler, kind))

    def verdict_dropped(self, handler: str) -> None:
        self.told.append(("dropped", handler))


class Host:
    """A host whose clocks run out when they are told to; handlers in threads run at once."""

    ticket = 0

    def __init__(self) -> None:
        self.time: Clock = lambda: 0.0
        self.cuts: list[Cut | None] = []

    def start_clock(self, limit_s: float, kind: HandlerKind, began: float | None = None) -> int:
        return 0

    def stop_clock(self, ticket: int) -> Cut | None:
        return self.cuts.pop(0) if self.cuts else None

    def run_in_thread(self, function: Callable[[], object]) -> Awaitable[object]:
        async def run() -> object:
            return function()

        return run()

    def keep(self, gathered_bytes: int) -> bool:
        return False

    def is_stray_at_work(self) -> bool:
        return False

    async def send_progress(self) -> None: ...


class Rig:
    """A dispatcher that is watched; each look at its clock takes one second."""

    def __init__(
        self,
        factory: Callable[[], Milter],
        policy: FaultPolicy = TEMPFAIL,
        observers: list[Observer] | None = None,
    ) -> None:
        self.journal = Journal()
        self.time = 0.0
        self.host = Host()
        self.session = FilterSession()
        numbers = iter(range(1, 100))
        heard = [self.journal] if observers is None else observers
        self.dispatcher = Dispatcher(
            factory,
            self.session,
            self.host,
            policy,
            lambda: f"s{next(numbers)}",
            "inet:8890",
            Observation(Observers(heard), self._tick),
        )

    def _tick(self) -> float:
        self.time += 1
        return self.time

    async def feed(self, *packets: bytes) -> list[bytes]:
        """Serve bytes and return the replies to them."""
        self.session.receive_data(b"".join(packets))
        return await self._serve()

    async def lose(self) -> list[bytes]:
        """Serve the end of the connection."""
        self.session.receive_eof()
        return await self._serve()

    async def _serve(self) -> list[bytes]:
        while (event := self.session.next_event()) is not None:
            if isinstance(event, ConnectionEnd):
                break
            await self.dispatcher.handle(event)
            if self.session.is_unanswered:
                self.session.close()
        self.dispatcher.settle()
        return split_packets(self.session.data_to_send())

    @property
    def records(self) -> list[MessageRecord]:
        return self.journal.records

    @property
    def ends(self) -> list[tuple[str, str]]:
        """Verdict and stage of each record."""
        return [(record.verdict, record.stage) for record in self.records]


class Full(Milter):
    """Has all handlers of a message; what the class says is what they return."""

    results: dict[str, Any] = {}  # noqa: RUF012  (replaced, never changed)

    def result(self, stage: str) -> Any:
        value = self.results.get(stage)
        if isinstance(value, BaseException):
            raise value
        return value

    async def on_connect(self, hostname: str, client: SocketInfo) -> Any:
        return self.result("connect")

    async def on_helo(self, hostname: str) -> Any:
        return self.result("helo")

    async def on_mail(self, sender: str, params: list[str]) -> Any:
        return self.result("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
        return self.result("rcpt")

    async def on_data(self) -> Any:
        return self.result("data")

    async def on_header(self, name: str, value: str) -> Any:
        return self.result("header")

    async def on_eoh(self) -> Any:
        return self.result("eoh")

    async def on_body(self, chunk: bytes) -> Any:
        return self.result("body")

    async def on_eom(self, actions: EomActions) -> Any:
        return self.result("eom")

    async def on_abort(self) -> Any:
        return self.result("abort")


def full(**results: Any) -> type[Full]:
    return type("Full", (Full,), {"results": results})


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[logging.LogRecord]]]:
    """The lines of ``aiomilter.message``."""
    with caplog.at_level(logging.INFO, "aiomilter.message"):
        yield lambda: [r for r in caplog.records if r.name == "aiomilter.message"]


# The record


async def test_record_says_all_about_a_message(
    lines: Callable[[], list[logging.LogRecord]],
) -> None:
    class Edits(Full):
        async def on_eom(self, actions: EomActions) -> Any:
            actions.add_header("X-A", "1")
            actions.add_header("X-B", "2")
            actions.replace_body(b"x" * 200_000)
            actions.quarantine("a look at it")
            return Status.ACCEPT

    rig = Rig(Edits)
    await rig.feed(OFFER, CONNECT, HELO, MAIL, QUEUE_ID, *MESSAGE[1:])
    record = MessageRecord(
        session_id="s1",
        listener="inet:8890",
        queue_id="4XyZ1",
        client="192.0.2.1:12345",
        hostname="mx.example",
        helo_name="mx.example",
        sender="<alice@a.example>",
        recipients=("<bob@b.example>",),
        recipient_count=1,
        verdict="accept",
        stage="eom",
        edits={"add_header": 2, "replace_body": 1, "quarantine": 1},
        is_quarantined=True,
        seconds=rig.records[0].seconds,
        size_bytes=len("Subjecthello" + "hello\r\n"),
    )
    assert rig.records == [record]
    assert record.seconds > 1
    (line,) = lines()
    assert line.levelno == logging.INFO
    assert line.getMessage() == (
        "[s1 4XyZ1] accept at eom client=192.0.2.1:12345 host=mx.example helo=mx.example "
        "from=<alice@a.example> to=<bob@b.example> "
        "edits=add_header:2,replace_body:1,quarantine:1 "
        f"bytes=19 seconds={record.seconds:.3f}"
    )
    assert line.aiomilter == record.as_dict()  # type: ignore[attr-defined]  # by `extra`
    assert (line.session_id, line.queue_id) == ("s1", "4XyZ1")  # type: ignore[attr-defined]


async def test_dictionary_of_a_record_is_json_without_what_is_not_there() -> None:
    record = MessageRecord(session_id="s1", verdict="abort", stage="-", recipients=("<a@a>",))
    assert json.loads(json.dumps(record.as_dict())) == {
        "session_id": "s1",
        "recipients": ["<a@a>"],
        "recipient_count": 0,
        "refused_recipients": 0,
        "verdict": "abort",
        "stage": "-",
        "is_quarantined": False,
        "seconds": 0.0,
        "size_bytes": 0,
        "faults": 0,
    }


STAGES = ("mail", "rcpt", "data", "header", "eoh", "body", "eom")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (Status.ACCEPT, "accept"),
        (Status.REJECT, "reject"),
        (Status.TEMPFAIL, "tempfail"),
        (Status.DISCARD, "discard"),
    ],
)
async def test_verdict_at_any_stage_is_one_record(stage: str, status: Status, verdict: str) -> None:
    rig = Rig(full(**{stage: status}))
    upto = MESSAGE[: STAGES.index(stage) + 1]
    await rig.feed(OFFER, CONNECT, HELO, *upto)
    of_recipient = stage == "rcpt" and status is not Status.ACCEPT
    assert rig.ends == ([] if of_recipient else [(verdict, stage)])
    await rig.feed(ABORT, QUIT)
    if of_recipient:
        # A refusal is about that recipient; a message that is to be discarded is then aborted.
        assert rig.ends == [("discard" if verdict == "discard" else "abort", "rcpt")]
        assert rig.records[0].refused_recipients == (verdict != "discard")
    else:
        assert rig.ends == [(verdict, stage)]


async def test_accepted_recipient_is_in_the_record_of_the_accept() -> None:
    rig = Rig(full(rcpt=Status.ACCEPT))
    await rig.feed(OFFER, CONNECT, HELO, MAIL, RCPT)
    assert rig.records[0].recipients == ("<bob@b.example>",)


async def test_reply_leaves_its_codes_and_not_its_text() -> None:
    rig = Rig(full(data=Reply(550, "5.7.1", "the text of a reply")))
    await rig.feed(OFFER, CONNECT, HELO, *MESSAGE[:3], QUIT)
    (record,) = rig.records
    assert (record.verdict, record.code, record.enhanced_code) == ("reject", 550, "5.7.1")
    assert " code=550/5.7.1 " in str(record)
    assert "the text" not in str(record)
    rig = Rig(full(data=Reply(450)))
    await rig.feed(OFFER, CONNECT, HELO, *MESSAGE[:3], QUIT)
    assert (rig.records[0].verdict, rig.records[0].enhanced_code) == ("tempfail", None)
    assert " code=450 " in str(rig.records[0])


async def test_message_that_nobody_objects_to_ends_with_continue() -> None:
    rig = Rig(Full)
    await rig.feed(OFFER, CONNECT, HELO, *MESSAGE, *MESSAGE, QUIT)
    assert rig.ends == [("continue", "eom")] * 2


async def test_abort_and_lost_connection_are_one_record_each() -> None:
    rig = Rig(Full)
    await rig.feed(OFFER, CONNECT, HELO, MAIL, RCPT, ABORT, ABORT, MAIL, RCPT, MAIL)
    assert rig.ends == [("abort", "rcpt")] * 2
    await rig.lose()
    assert rig.ends == [("abort", "rcpt")] * 2 + [("abort", "mail")]


async def test_refused_recipients_are_counted_and_not_listed() -> None:
    class Picky(Full):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
            return Status.REJECT if "bob" in recipient else None

    rig = Rig(Picky)
    others = [packet(b"R", f"<{number}@b.example>\0".encode()) for number in range(60)]
    await rig.feed(OFFER, CONNECT, HELO, MAIL, RCPT, *others, *MESSAGE[2:], QUIT)
    (record,) = rig.records
    assert (record.recipient_count, record.refused_recipients) == (60, 1)
    assert record.recipients[0] == "<0@b.example>"
    assert 5 < len(record.recipients) < 60
    assert f" more={60 - len(record.recipients)} refused=1 " in str(record)


async def test_milter_that_sees_the_end_only_has_records_from_macros() -> None:
    class EndOnly(Milter):
        async def on_eom(self, actions: EomActions) -> Status:
            return Status.ACCEPT

    rig = Rig(EndOnly)
    told = [
        macros(b"C", b"{client_addr}", b"192.0.2.9", b"{client_name}", b"c.example"),
        macros(b"H", b"s", b"helo.example"),
        macros(b"M", b"i", b"Q1", b"{mail_addr}", b"a@a.example"),
    ]
    await rig.feed(OFFER, *told, EOM)
    (record,) = rig.records
    assert (record.client, record.hostname) == ("192.0.2.9", "c.example")
    assert (record.helo_name, record.sender) == ("helo.example", "<a@a.example>")
    assert (record.queue_id, record.recipients) == ("Q1", ())


@pytest.mark.parametrize("body", [EOM, packet(b"E", b"last\r\n")])
async def test_milter_without_end_of_message_has_records_all_the_same(body: bytes) -> None:
    class Sender(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

    rig = Rig(Sender)
    replies = await rig.feed(OFFER, MAIL, QUEUE_ID, body)
    assert replies[1:] == [b"c", b"c"]
    assert rig.ends == [("continue", "eom")]
    assert rig.records[0].queue_id == "4XyZ1"


async def test_several_sessions_on_a_connection_have_ids_of_their_own() -> None:
    rig = Rig(Full)
    await rig.feed(OFFER, CONNECT, HELO, *MESSAGE, QUIT_NC, CONNECT, HELO, *MESSAGE, QUIT)
    assert [record.session_id for record in rig.records] == ["s1", "s2"]
    assert [told[1] for told in rig.journal.told if told[0] == "session"] == ["s1", "s2"]


async def test_macros_of_the_next_message_are_not_in_the_record() -> None:
    class Observing(Milter):
        @no_reply
        async def on_mail(self, sender: str, params: list[str]) -> None:
            raise ValueError("x")

        async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    rig = Rig(Observing)
    await rig.feed(OFFER, macros(b"M", b"i", b"Q1"), MAIL)
    session = rig.session
    session.receive_data(RCPT + DATA + ABORT)  # answered by the session, as is owed
    session.receive_data(macros(b"M", b"i", b"Q2", b"{mail_addr}", b"b@b") + MAIL)
    await rig.feed(RCPT, ABORT)
    assert [record.queue_id for record in rig.records] == ["Q1", "Q2"]
    assert [record.faults for record in rig.records] == [1, 1]
    assert rig.ends == [("tempfail", "mail"), ("abort", "mail")]
    assert [record.sender for record in rig.records] == ["<alice@a.example>"] * 2


# Faults


class Own(BaseException):
    """An exception of the author's, beside `Exception`."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        RecursionError(),
        MemoryError(),
        Own(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("stage", STAGES)
async def test_a46_each_fault_is_one_record_with_the_configured_verdict(
    stage: str, error: BaseException
) -> None:
    rig = Rig(full(**{stage: error}))
    await rig.feed(OFFER, CONNECT, HELO, *MESSAGE[: STAGES.index(stage) + 1], ABORT)
    (record,) = rig.records
    assert record.faults == 1
    assert record.verdict == ("abort" if stage == "rcpt" else "tempfail")
    assert record.stage == stage
    assert record.edits == {}
    assert [told for told in rig.journal.told if told[0] == "fault"] == [
        ("fault", f"on_{stage}", "exception")
    ]


@pytest.mark.parametrize("result", [7, "x", Status.ALL_OPTS, Status.NOREPLY])
async def test_a46_wrong_result_is_a_fault_of_its_kind(result: object) -> None:
    rig = Rig(full(mail=result))
    await rig.feed(OFFER, CONNECT, HELO, MAIL, ABORT)
    assert rig.ends == [("tempfail", "mail")]
    assert ("fault", "on_mail", "wrong_result") in rig.journal.told


@pytest.mark.parametrize(
    "cut", [Cut.TIME_LIMIT, Cut.BLOCKED_LOOP, Cut.NO_THREAD, Cut.STOPPING, Cut.FROM_OUTSIDE]
)
async def test_a47_handler_cut_short_is_one_record_and_says_why(cut: Cut) -> None:
    rig = Rig(Full)
    await rig.feed(OFFER, CONNECT, HELO, MAIL)
    rig.host.cuts.append(cut)
    await rig.feed(RCPT, ABORT)
    assert ("fault", "on_rcpt", cut.name.lower()) in rig.journal.told
    assert rig.ends == [("abort", "rcpt")]
    assert rig.records[0].faults == 1


async def test_a49_verdict_in_a_stage_without_replies_is_counted_and_is_no_verdict() -> None:
    class Silent(Milter):
        @no_reply
        async def on_header(self, name: str, value: str) -> Status:
            return Status.REJECT

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.ACCEPT

    rig = Rig(Silent)
    replies = await rig.feed(OFFER, HEADER, HEADER, EOM, QUIT)
    assert replies[1:] == [b"a"]
    assert rig.ends == [("accept", "eom")]
    assert rig.journal.told.count(("dropped", "on_header")) == 2


async def test_a50_handler_whose_mta_is_gone_leaves_one_aborted_record() -> None:
    rig = Rig(Full)
    await rig.feed(OFFER, CONNECT, HELO, MAIL)
    rig.host.cuts.append(Cut.CONNECTION_LOST)
    await rig.feed(RCPT)
    await rig.lose()
    assert rig.ends == [("abort", "rcpt")]
    assert not [told for told in rig.journal.told if told[0] == "fault"]


async def test_fault_in_begin_message_costs_the_message_once() -> None:
    class Broken(Full):
        def begin_message(self) -> None:
            raise ValueError("x")

    rig = Rig(Broken)
    await rig.feed(OFFER, CONNECT, HELO, MAIL, RCPT, ABORT, MAIL, ABORT, QUIT)
    assert rig.ends == [("tempfail", "mail")] * 2
    assert ("fault", "begin_message", "exception") in rig.journal.told


async def test_factory_that_fails_is_a_fault_and_a_refused_message() -> None:
    def broken() -> Milter:
        raise ValueError("x")

    rig = Rig(broken)
    replies = await rig.feed(OFFER, HELO, MAIL, ABORT, QUIT)
    assert replies[1:] == [b"t", b"t"]
    assert ("fault", "factory", "exception") in rig.journal.told
    assert rig.ends == [("tempfail", "mail")]


async def test_verdict_that_is_owed_is_in_the_record() -> None:
    class Silent(Milter):
        @no_reply
        async def on_header(self, name: str, value: str) -> None:
            raise ValueError("x")

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.ACCEPT

    rig = Rig(Silent)
    replies = await rig.feed(OFFER, QUEUE_ID, HEADER, EOM)
    assert replies[1:] == [b"t"]
    assert rig.ends == [("tempfail", "header")]
    assert (rig.records[0].faults, rig.records[0].queue_id) == (1, "4XyZ1")


async def test_edits_of_a_failed_handler_are_not_in_the_record() -> None:
    class Half(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-A", "1")
            raise ValueError("x")

    rig = Rig(Half)
    assert (await rig.feed(OFFER, EOM))[1:] == [b"t"]
    assert rig.records[0].edits == {}


# Sessions


@pytest.mark.parametrize("probe", [(), (OFFER, QUIT), (OFFER,), (offer(), QUIT)])
async def test_a12_port_probes_and_health_checks_are_no_sessions(
    probe: tuple[bytes, ...], lines: Callable[[], list[logging.LogRecord]]
) -> None:
    rig = Rig(Full)
    await rig.feed(*probe)
    await rig.lose()
    assert rig.journal.told == []
    assert rig.records == []
    assert lines() == []


async def test_session_begins_with_what_is_told_about_a_client() -> None:
    rig = Rig(Full)
    await rig.feed(OFFER)
    assert rig.journal.told == []
    await rig.feed(CONNECT)
    assert rig.journal.told == [("session", "s1", "inet:8890"), ("on_connect", 1.0, "continue")]


async def test_session_that_a_milter_is_shown_nothing_of_is_one_all_the_same() -> None:
    class EndOnly(Milter):
        async def on_eom(self, actions: EomActions) -> None: ...

    rig = Rig(EndOnly)
    await rig.feed(OFFER, macros(b"C", b"{client_addr}", b"192.0.2.1"), QUIT)
    assert rig.journal.told == [("session", "s1", "inet:8890")]


# Handlers


async def test_results_of_handlers_are_few_words() -> None:
    rig = Rig(full(helo=Reply(450), mail=7, rcpt=Status.REJECT, abort=object()))
    await rig.feed(OFFER, CONNECT, HELO, MAIL, MAIL, QUIT)
    handlers = [told for told in rig.journal.told if str(told[0]).startswith("on_")]
    assert handlers == [
        ("on_connect", 1.0, "continue"),
        ("on_helo", 1.0, "tempfail"),
        ("on_mail", 1.0, "fault"),
        ("on_mail", 1.0, "fault"),
    ]


# Observers


async def test_observer_that_fails_is_logged_once_a_method_and_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Observer):
        def session_started(self, session_id: str, listener: str) -> None:
            raise SystemExit

        def message_finished(self, record: MessageRecord) -> None:
            raise ValueError(f"no \x1b {record.queue_id}")

    journal = Journal()
    rig = Rig(Full, observers=[Broken(), journal])
    replies = await rig.feed(OFFER, CONNECT, HELO, *MESSAGE, *MESSAGE, QUIT)
    assert replies[1:] == [b"c"] * 16
    assert len(journal.records) == 2
    shown = [record.getMessage() for record in caplog.records if "observer" in record.getMessage()]
    assert shown == [
        f"the observer Broken failed in {name}; further failures there are not logged: {error}"
        for name, error in (
            ("session_started", "SystemExit"),
            ("message_finished", "ValueError: no \\x1b None"),
        )
    ]


async def test_without_observers_and_with_the_logger_off_nothing_is_noted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "aiomilter.message"):
        rig = Rig(Full, observers=[])
        await rig.feed(OFFER, CONNECT, HELO, *MESSAGE, QUIT)
    assert rig.time == 0
    assert caplog.records == []


async def test_logging_handler_that_fails_harms_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("aiomilter.message")

    class FullDisk(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("the disk is full")

    handler = FullDisk()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "aiomilter.message"):
            rig = Rig(Full)
            replies = await rig.feed(OFFER, CONNECT, HELO, *MESSAGE, QUIT)
    finally:
        logger.removeHandler(handler)
    assert replies[1:] == [b"c"] * 9
    assert "the record of a message could not be logged" in caplog.text


def test_every_event_does_nothing_by_default_and_reaches_those_who_have_it() -> None:
    events: dict[str, tuple[object, ...]] = {
        "connection_opened": ("inet:1", "192.0.2.1"),
        "connection_closed": ("inet:1", "192.0.2.1", 1.0),
        "turned_away": ("peer",),
        "session_started": ("s1", "inet:1"),
        "message_finished": (MessageRecord(session_id="s", verdict="abort", stage="-"),),
        "handler_finished": ("on_mail", 1.0, "continue"),
        "handler_failed": ("on_mail", "exception"),
        "verdict_dropped": ("on_mail",),
        "timed_out": ("idle",),
        "protocol_broken": ("inet:1",),
        "loop_lagged": (0.1,),
    }
    assert {name for name in vars(Observer) if not name.startswith("_")} == set(events)
    heard: list[tuple[object, ...]] = []

    def hearing(name: str) -> Callable[..., None]:
        return lambda _self, *arguments: heard.append((name, *arguments))

    everything = type("Everything", (Observer,), {name: hearing(name) for name in events})
    observers = Observers([Observer(), everything()])
    for name, arguments in events.items():
        getattr(observers, name)(*arguments)
    assert heard == [(name, *arguments) for name, arguments in events.items()]
    assert not observers.is_empty
    assert observers.hears_handlers
    assert not Observers([Observer()]).hears_handlers
    assert Observers().is_empty


# What comes from outside

HOSTILE = "a\n\r\0\x1b[31m\u202e\u2028\x7f\x9b\u200b" + "z" * 1_000_000
EMOJI = "\N{GRINNING FACE}" * 300_000


@pytest.mark.parametrize("text", [HOSTILE, EMOJI, '"' * 70_000, "\\" * 70_000, "\x1b" * 70_000])
def test_a64_text_is_printable_and_cut(text: str) -> None:
    shown = cut_text(text, 120)
    assert shown is not None
    assert shown.isprintable()
    assert shown.endswith("…")
    assert 100 < len(json.dumps(shown, ensure_ascii=False).encode()) - 2 <= 120
    assert cut_text("short", 120) == "short"
    assert cut_text(None, 120) is None
    assert cut_text("x" * 120, 120) == "x" * 120


def test_a64_lone_surrogates_become_the_bytes_that_they_stand_for() -> None:
    assert cut_text("a\udcff\ud800", 120) == "a\\xff\\ud800"


@pytest.mark.parametrize("text", [HOSTILE, EMOJI, '"' * 70_000, "\\" * 70_000, "\x1b" * 70_000])
def test_a64_recipients_fit(text: str) -> None:
    found = cut_recipients([text] * 1_000)
    assert found
    assert len(json.dumps(found, ensure_ascii=False).encode()) < 420
    assert cut_recipients([]) == ()


@pytest.mark.parametrize("text", [HOSTILE, EMOJI, '"' * 70_000, "\\" * 70_000, "\x1b" * 70_000])
async def test_a64_hostile_helo_addresses_and_ids_are_one_capped_line(
    text: str, lines: Callable[[], list[logging.LogRecord]]
) -> None:
    rig = Rig(Full)
    rig.session._max_payload_bytes = 2**21
    data = text.replace("\0", "").encode() + b"\0"
    queue_id = packet(b"D", b"Ri\0" + data)
    connect = packet(b"C", data + b"4\x30\x39192.0.2.1\0")
    await rig.feed(
        OFFER,
        *(connect, packet(b"H", data), packet(b"M", data), packet(b"R", data), queue_id),
        *([packet(b"R", data)] * 20),
        *(packet(b"L", b"Subject\0secret " + data), EOH, BODY, EOM, QUIT),
    )
    (line,) = lines()
    shown = line.getMessage()
    assert shown.isprintable()
    assert len(shown.encode()) <= 2048
    assert "secret" not in shown
    (record,) = rig.records
    assert record.recipient_count == 21
    as_json = json.dumps(record.as_dict(), ensure_ascii=False)
    assert as_json.isprintable()
    assert len(as_json.encode()) <= 1700


def test_values_that_could_be_taken_for_others_are_quoted() -> None:
    record = MessageRecord(
        session_id="s1",
        verdict="accept",
        stage="eom",
        helo_name='x from=<ceo@a.example> "\\',
        hostname="",
    )
    assert ' host="" helo="x from=<ceo@a.example> \\"\\\\" ' in str(record)


def test_edits_are_counted_by_kind() -> None:
    actions = EomActions(0x1FF, _no_progress)
    actions.add_header("A", "1")
    actions.insert_header(0, "B", "2")
    actions.change_header("C", 1, "3")
    actions.change_sender("<a@a>")
    actions.add_recipient("<b@b>")
    actions.add_recipient("<c@c>", "NOTIFY=NEVER")
    actions.delete_recipient("<d@d>")
    actions.replace_body(b"x" * 150_000)
    actions.quarantine("why")
    assert count_edits(actions.close()) == {
        "add_header": 1,
        "insert_header": 1,
        "change_header": 1,
        "change_sender": 1,
        "add_recipient": 2,
        "delete_recipient": 1,
        "replace_body": 1,
        "quarantine": 1,
    }
    assert count_edits(b"") == {}


async def _no_progress() -> None: ...


# The context of a message


async def test_handlers_run_in_the_context_of_their_message() -> None:
    seen: list[tuple[str, str | None]] = []
    kept: list[MessageContext] = []

    def note() -> None:
        context = current_context()
        assert context is not None
        kept.append(context)
        seen.append((context.session_id, context.queue_id))

    class Looking(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            note()

        def on_rcpt(self, recipient: str, params: list[str]) -> None:
            note()

        async def on_eom(self, actions: EomActions) -> None:
            note()

    rig = Rig(Looking)
    first = (MAIL, QUEUE_ID, RCPT, EOM)
    second = (MAIL, RCPT, macros(b"E", b"i", b"Q2"), EOM)
    await rig.feed(OFFER, CONNECT, *first, *second, QUIT_NC, CONNECT, QUIT)
    assert seen == [
        ("s1", None),
        ("s1", "4XyZ1"),
        ("s1", "4XyZ1"),
        ("s1", None),
        ("s1", "Q2"),
        ("s2", None),
    ]
    # A task that outlives its message does not come to know the next one's id.
    assert [context.queue_id for context in kept] == [None, "4XyZ1", "4XyZ1", "Q2", "Q2", None]
