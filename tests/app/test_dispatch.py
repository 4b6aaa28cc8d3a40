"""From an event to a handler and from its result to an answer, without a socket."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiomilter import (
    Actions,
    EomActions,
    MacroStage,
    Milter,
    Negotiation,
    Options,
    RemoteProtocolError,
    Reply,
    SocketInfo,
    Status,
    leading_space,
    macros,
    no_reply,
    rejected_recipients,
    time_limit,
)
from aiomilter.app.dispatch import Dispatcher
from aiomilter.app.handlers import HandlerKind
from aiomilter.app.host import Abandoned, Clock, Cut, FaultPolicy
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
    UNKNOWN,
    offer,
    packet,
    split_packets,
)
from tests.mta import (
    macros as macro_packet,
)

POLICY = FaultPolicy(on_error=Status.TEMPFAIL, handler_timeout_s=8.0, eom_timeout_s=240.0)


class FakeHost:
    """A host whose clock never runs out unless it is told to."""

    ticket = 0

    def __init__(self) -> None:
        self.time: Clock = lambda: 0.0
        self.clocks: list[tuple[float, HandlerKind]] = []
        self.cuts: list[Cut | None] = []
        self.progress = 0
        self.in_thread = 0
        self.kept = self.most_kept = 0
        self.memory_is_tight = False

    def start_clock(self, limit_s: float, kind: HandlerKind, began: float | None = None) -> int:
        self.clocks.append((limit_s, kind))
        return len(self.clocks)

    def stop_clock(self, ticket: int) -> Cut | None:
        assert ticket == len(self.clocks)
        return self.cuts.pop(0) if self.cuts else None

    def run_in_thread(self, function: Callable[[], object]) -> Awaitable[object]:
        self.in_thread += 1

        async def run() -> object:
            return function()

        return run()

    def keep(self, gathered_bytes: int) -> bool:
        self.kept = gathered_bytes
        self.most_kept = max(self.most_kept, gathered_bytes)
        return self.memory_is_tight

    def is_stray_at_work(self) -> bool:
        return False

    async def send_progress(self) -> None:
        self.progress += 1


class Rig:
    """A dispatcher between a session and a fake host."""

    def __init__(self, factory: Callable[[], Milter], policy: FaultPolicy = POLICY) -> None:
        self.host = FakeHost()
        self.session = FilterSession()
        self.made: list[Milter] = []
        self.numbers = iter(range(1, 100))

        def make() -> Milter:
            self.made.append(factory())
            return self.made[-1]

        self.dispatcher = Dispatcher(
            make, self.session, self.host, policy, lambda: f"s{next(self.numbers)}"
        )
        self.has_ended = False

    @property
    def milter(self) -> Any:
        return self.made[-1]

    async def feed(self, *packets: bytes) -> list[bytes]:
        """Serve bytes and return the replies to them."""
        self.session.receive_data(b"".join(packets))
        while (event := self.session.next_event()) is not None:
            await self.dispatcher.handle(event)
            if self.session.is_unanswered:
                self.session.close()
            if isinstance(event, ConnectionEnd):
                self.has_ended = True
                break
        return split_packets(self.session.data_to_send())


class Everything(Milter):
    """Notes every call with its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def begin_message(self) -> None:
        self.calls.append(("begin_message",))

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.calls.append(("connect", hostname, str(client)))

    async def on_helo(self, hostname: str) -> None:
        self.calls.append(("helo", hostname))

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.calls.append(("mail", sender, params))

    def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.calls.append(("rcpt", recipient, params))

    async def on_data(self) -> None:
        self.calls.append(("data",))

    async def on_header(self, name: str, value: str) -> None:
        self.calls.append(("header", name, value))

    async def on_eoh(self) -> None:
        self.calls.append(("eoh",))

    async def on_body(self, chunk: bytes) -> None:
        self.calls.append(("body", chunk))

    async def on_eom(self, actions: EomActions) -> Status:
        self.calls.append(("eom",))
        actions.add_header("X-Seen", "yes")
        return Status.ACCEPT

    async def on_unknown(self, command: str) -> None:
        self.calls.append(("unknown", command))

    async def on_abort(self) -> None:
        self.calls.append(("abort", self.sender))

    async def on_close(self) -> None:
        self.calls.append(("close", self.hostname))


async def test_every_event_reaches_its_handler_with_its_arguments() -> None:
    rig = Rig(Everything)
    params = packet(b"M", b"<a@a>\0SIZE=1\0BODY=8BITMIME\0")
    replies = await rig.feed(OFFER, CONNECT, HELO, UNKNOWN, params, *MESSAGE[1:], MAIL, QUIT)
    assert replies[0][:1] == b"O"
    assert replies[1:] == [b"c"] * 9 + [b"hX-Seen\0yes\0", b"a", b"c"]
    assert rig.milter.calls == [
        ("connect", "mx.example", "192.0.2.1:12345"),
        ("helo", "mx.example"),
        ("unknown", "XYZZ"),
        ("begin_message",),
        ("mail", "<a@a>", ["SIZE=1", "BODY=8BITMIME"]),
        ("rcpt", "<bob@b.example>", []),
        ("data",),
        ("header", "Subject", "hello"),
        ("eoh",),
        ("body", b"hello\r\n"),
        ("eom",),
        ("begin_message",),
        ("mail", "<alice@a.example>", []),
        ("abort", "<alice@a.example>"),
        ("close", "mx.example"),
    ]
    assert rig.has_ended
    assert rig.host.in_thread == 1


async def test_budgets_are_the_policys_unless_a_handler_has_its_own() -> None:
    class Limited(Milter):
        async def on_helo(self, hostname: str) -> None: ...

        @time_limit(3)
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        async def on_eom(self, actions: EomActions) -> None: ...

        async def on_close(self) -> None: ...

    rig = Rig(Limited)
    await rig.feed(OFFER, HELO, *MESSAGE, QUIT)
    assert rig.host.clocks == [
        (8.0, HandlerKind.EVENT),
        (3.0, HandlerKind.EVENT),
        (240.0, HandlerKind.EOM),
        (8.0, HandlerKind.HOOK),
    ]


async def test_the_facts_of_a_message_are_gone_in_the_next() -> None:
    seen: list[tuple[object, ...]] = []

    class Looking(Milter):
        def look(self) -> None:
            seen.append((self.sender, self.recipients, self.queue_id, dict(self.macros)))

        async def on_helo(self, hostname: str) -> None:
            self.look()

        async def on_mail(self, sender: str, params: list[str]) -> None:
            self.look()

        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            self.look()

        async def on_eom(self, actions: EomActions) -> None:
            self.look()

    second = (packet(b"M", b"<>\0"), packet(b"R", b"<c>\0"))
    rig = Rig(Looking)
    await rig.feed(OFFER, HELO, macro_packet(b"M", b"i", b"q1", b"{auth_authen}", b"alice"))
    await rig.feed(*MESSAGE, *second, EOM)
    first_macros = {"i": "q1", "{auth_authen}": "alice"}
    assert seen == [
        (None, (), None, {}),
        ("<alice@a.example>", (), "q1", first_macros),
        ("<alice@a.example>", (), "q1", first_macros),
        ("<alice@a.example>", ("<bob@b.example>",), "q1", first_macros),
        ("<>", (), None, {}),
        ("<>", (), None, {}),
        ("<>", ("<c>",), None, {}),
    ]


async def test_a_second_session_on_the_connection_has_an_object_and_facts_of_its_own() -> None:
    class Continuing(Everything):
        # As in libmilter, only after this verdict another session may begin.
        async def on_eom(self, actions: EomActions) -> Status:
            return Status.CONTINUE

    rig = Rig(Continuing)
    await rig.feed(OFFER, CONNECT, HELO, *MESSAGE, QUIT_NC)
    first = rig.milter
    await rig.feed(packet(b"C", b"other\0U"))
    assert rig.milter is not first
    assert (rig.milter.hostname, rig.milter.helo_name, rig.milter.sender) == ("other", None, None)
    assert (first.session_id, rig.milter.session_id) == ("s1", "s2")
    assert first.calls[-2:] == [("body", b"hello\r\n"), ("close", "mx.example")]


@pytest.mark.parametrize(
    ("verdict", "kept"),
    [
        (None, True),
        (Status.CONTINUE, True),
        (Status.REJECT, False),
        (Status.TEMPFAIL, False),
        (Reply(550), False),
        (Reply(450), False),
    ],
)
async def test_a_recipient_counts_unless_it_was_refused(
    verdict: Status | Reply | None, kept: bool
) -> None:
    class Choosy(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status | Reply | None:
            return verdict if recipient == "<bob@b.example>" else None

    rig = Rig(Choosy)
    await rig.feed(OFFER, MAIL, RCPT, packet(b"R", b"<c>\0"))
    assert rig.milter.recipients == (("<bob@b.example>", "<c>") if kept else ("<c>",))


async def test_a_recipient_that_the_mta_has_refused_is_seen_and_does_not_count() -> None:
    class Curious(Milter):
        seen: tuple[str, ...] = ()

        @rejected_recipients
        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            self.seen += (f"{recipient} {self.macros.get('{rcpt_mailer}')}",)

    rig = Rig(Curious)
    await rig.feed(OFFER, MAIL, macro_packet(b"R", b"{rcpt_mailer}", b"error"), RCPT)
    await rig.feed(macro_packet(b"R", b"{rcpt_mailer}", b"esmtp"), packet(b"R", b"<c>\0"))
    assert rig.milter.seen == ("<bob@b.example> error", "<c> esmtp")
    assert rig.milter.recipients == ("<c>",)


@pytest.mark.parametrize(
    ("verdict", "reply"),
    [
        (None, b"c"),
        (Status.CONTINUE, b"c"),
        (Status.ACCEPT, b"a"),
        (Status.REJECT, b"r"),
        (Status.TEMPFAIL, b"t"),
        (Status.DISCARD, b"d"),
        (Reply(550, "5.7.1", "100%", "b"), b"y550-5.7.1 100%%\r\n550 5.7.1 b\0"),
        (Reply(421), b"y421 \0"),
    ],
)
async def test_a_verdict_is_one_reply_and_belongs_to_one_event(
    verdict: Status | Reply | None, reply: bytes
) -> None:
    class Once(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> Status | Reply | None:
            return verdict if sender == "<alice@a.example>" else None

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.REJECT

    rig = Rig(Once)
    assert (await rig.feed(OFFER, MAIL))[1:] == [reply]
    # What was said about the first message says nothing about the second.
    assert await rig.feed(ABORT, packet(b"M", b"<>\0"), RCPT, EOM) == [b"c", b"c", b"r"]


class Observer(Milter):
    """Says what it must not."""

    verdict: object = Status.REJECT

    @no_reply
    async def on_header(self, name: str, value: str) -> Any:
        return self.verdict

    async def on_eom(self, actions: EomActions) -> None: ...


@pytest.mark.parametrize("options", [0x1FFFFF, 0x7F], ids=["offered", "not offered"])
async def test_a_verdict_in_a_stage_without_replies_is_dropped_with_one_record(
    options: int, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(Observer)
    await rig.feed(offer(0x1FF, options))
    to_header = [] if options & Options.NO_REPLY_HEADER else [b"c"]
    assert await rig.feed(MAIL, RCPT, HEADER) == [b"c", b"c", *to_header]
    assert await rig.feed(EOM) == [b"c"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search("on_header returned .*REJECT.*, which is dropped", record.getMessage())


@pytest.mark.parametrize("verdict", [Status.NOREPLY, Status.CONTINUE, None])
async def test_an_observer_may_say_that_it_does_not_reply(
    verdict: Status | None, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(type("Quiet", (Observer,), {"verdict": verdict}))
    await rig.feed(OFFER)
    assert await rig.feed(MAIL, RCPT, HEADER, EOM) == [b"c", b"c", b"c"]
    assert not caplog.records


@pytest.mark.parametrize("is_agreed", [False, True])
async def test_skip_means_no_more_of_the_kind_in_this_message(is_agreed: bool) -> None:
    class Brief(Milter):
        bodies = headers = 0

        async def on_header(self, name: str, value: str) -> Status:
            self.headers += 1
            return Status.SKIP

        async def on_body(self, chunk: bytes) -> Status:
            self.bodies += 1
            return Status.SKIP

    class Agreeing(Brief):
        async def on_negotiate(self, negotiation: Negotiation) -> None:
            assert Options.SKIP in negotiation.options

    rig = Rig(Agreeing if is_agreed else Brief)
    await rig.feed(OFFER)
    # As in libmilter, it is agreed on by those who negotiate themselves; and it is sent at the
    # body only, since Sendmail misunderstands it elsewhere.
    to_body = b"s" if is_agreed else b"c"
    message = [MAIL, RCPT, HEADER, HEADER, EOH, BODY, BODY, EOM]
    for count in (1, 2):
        replies = await rig.feed(*message)
        assert replies == [b"c", b"c", b"c", b"c", b"c", to_body, b"c", b"c"]
        assert (rig.milter.headers, rig.milter.bodies) == (count, count)


# What an MTA is told in the negotiation


def agreed(replies: list[bytes]) -> tuple[int, int, bytes]:
    """Return actions, options and macro requests of an answer to an offer."""
    (reply,) = replies
    assert reply[:5] == b"O\0\0\0\x06"
    numbers = [int.from_bytes(reply[at : at + 4], "big") for at in (5, 9)]
    return numbers[0], numbers[1], reply[13:]


async def test_without_wishes_all_actions_on_offer_are_requested() -> None:
    class Plain(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

    actions, options, wanted = agreed(await Rig(Plain).feed(offer(0x3F, 0x1FFFFF)))
    assert (actions, options, wanted) == (0x3F, 0x37B, b"")


async def test_macros_are_requested_by_stage() -> None:
    class Asking(Milter):
        @macros("i", "{auth_authen}")
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        @macros()
        async def on_eom(self, actions: EomActions) -> None: ...

    _, _, wanted = agreed(await Rig(Asking).feed(OFFER))
    assert wanted == b"\0\0\0\x02i {auth_authen}\0" + b"\0\0\0\x05\0"


class Needing(Milter):
    """Needs two actions."""

    actions = Actions.ADD_HEADER | Actions.REPLACE_BODY


async def test_required_actions_alone_are_requested() -> None:
    actions, _, _ = agreed(await Rig(Needing).feed(OFFER))
    assert actions == 0x03


async def test_an_mta_that_lacks_a_required_action_is_refused() -> None:
    rig = Rig(Needing)
    with pytest.raises(RemoteProtocolError, match="does not offer: REPLACE_BODY"):
        await rig.feed(offer(0x01))
    assert await rig.feed() == []
    assert rig.has_ended


class Wishing(Milter):
    """Asks for what not every MTA can do."""

    @rejected_recipients
    async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    @leading_space
    async def on_header(self, name: str, value: str) -> None: ...


@pytest.mark.parametrize(("options", "asked"), [(0x1FFFFF, 0x100800), (0x7F, 0)])
async def test_wishes_that_are_not_on_offer_are_dropped(options: int, asked: int) -> None:
    _, found, _ = agreed(await Rig(Wishing).feed(offer(0x1FF, options)))
    assert found & 0x100800 == asked


class Negotiator(Milter):
    """Does in the negotiation what the test wants."""

    act: Callable[[Negotiation], Any] = staticmethod(lambda negotiation: None)

    async def on_negotiate(self, negotiation: Negotiation) -> Any:
        return type(self).act(negotiation)

    async def on_mail(self, sender: str, params: list[str]) -> None: ...

    async def on_eom(self, actions: EomActions) -> None: ...


def negotiator(act: Callable[[Negotiation], object]) -> type[Milter]:
    return type("Negotiating", (Negotiator,), {"act": staticmethod(act)})


async def test_a_handler_may_change_the_request() -> None:
    def act(negotiation: Negotiation) -> None:
        negotiation.actions = Actions.QUARANTINE
        negotiation.options |= Options.NO_MAIL
        negotiation.request_macros(MacroStage.EOM, "i")

    rig = Rig(negotiator(act))
    assert agreed(await rig.feed(OFFER)) == (0x20, 0x77F, b"\0\0\0\x05i\0")


async def test_all_opts_takes_all_actions_and_the_default_options() -> None:
    def act(negotiation: Negotiation) -> Status:
        negotiation.actions = Actions(0)
        negotiation.options = Options(0)
        return Status.ALL_OPTS

    assert agreed(await Rig(negotiator(act)).feed(OFFER)) == (0x1FF, 0x77B, b"")


@pytest.mark.parametrize("status", [Status.REJECT, Status.ACCEPT, Status.DISCARD, Status.TEMPFAIL])
async def test_any_other_status_refuses_the_mta(
    status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(negotiator(lambda _negotiation: status))
    assert await rig.feed(OFFER) == []
    assert rig.has_ended
    assert f"on_negotiate refuses the MTA by returning {status.name}" in caplog.text


def _raise(_negotiation: Negotiation) -> None:
    raise ValueError("secret")


def _ask_for_a_bad_macro(negotiation: Negotiation) -> None:
    negotiation.request_macros(MacroStage.MAIL, "a b")


@pytest.mark.parametrize("act", [_raise, _ask_for_a_bad_macro, lambda _: 7, lambda _: Reply(550)])
async def test_a_fault_in_the_negotiation_is_answered_at_the_first_event(
    act: Callable[[Negotiation], object], caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(negotiator(act))
    assert agreed(await rig.feed(OFFER)) == (0x1FF, 0x37B, b"")
    assert await rig.feed(MAIL) == [b"t"]
    assert await rig.feed(ABORT, MAIL, RCPT, EOM) == [b"c", b"c", b"c"]
    assert len(caplog.records) == 1


async def test_a_fault_in_the_negotiation_may_let_mail_pass() -> None:
    rig = Rig(negotiator(_raise), FaultPolicy(Status.CONTINUE, 8.0, 240.0))
    await rig.feed(OFFER)
    assert await rig.feed(MAIL) == [b"c"]


async def test_a_request_for_what_is_not_offered_closes(caplog: pytest.LogCaptureFixture) -> None:
    def act(negotiation: Negotiation) -> None:
        negotiation.options |= Options.LEADING_SPACE

    rig = Rig(negotiator(act))
    with pytest.raises(RemoteProtocolError, match="LEADING_SPACE"):
        await rig.feed(offer(0x1FF, 0x7F))
    assert not caplog.records


# What comes from the host


class Slow(Milter):
    """Has one handler of each kind."""

    async def on_mail(self, sender: str, params: list[str]) -> Status:
        return Status.ACCEPT

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("A", "b")
        return Status.ACCEPT

    async def on_abort(self) -> None: ...


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (Cut.TIME_LIMIT, "it took longer than its time limit of 8 s; the answer is REJECT"),
        (Cut.STOPPING, "the server is stopping; the answer is TEMPFAIL"),
        (Cut.FROM_OUTSIDE, "its task was cancelled; the answer is TEMPFAIL"),
    ],
)
async def test_a_handler_that_was_cut_short_costs_its_verdict(
    cut: Cut, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(Slow, FaultPolicy(Status.REJECT, 8.0, 240.0))
    await rig.feed(OFFER)
    rig.host.cuts = [cut]
    assert await rig.feed(MAIL) == [b"r" if cut is Cut.TIME_LIMIT else b"t"]
    (record,) = caplog.records
    assert words in record.getMessage()
    assert record.levelno == logging.ERROR


async def test_a_handler_whose_mta_is_gone_gives_no_answer_and_no_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(Slow)
    await rig.feed(OFFER)
    rig.host.cuts = [Cut.CONNECTION_LOST]
    assert await rig.feed(MAIL) == []
    assert rig.has_ended
    assert not caplog.records


async def test_a_handler_that_comes_back_too_late_is_not_listened_to() -> None:
    rig = Rig(Slow)
    await rig.feed(OFFER, MAIL)
    rig.host.cuts = [Cut.ABANDONED]
    with pytest.raises(Abandoned):
        await rig.feed(MAIL)


def test_nothing_is_abandoned_if_nothing_runs(caplog: pytest.LogCaptureFixture) -> None:
    Rig(Slow).dispatcher.abandon()
    assert not caplog.records


# The log


async def test_a_fault_is_one_record_with_an_incident_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            raise ValueError("line one\nline two %s")

    rig = Rig(Failing)
    await rig.feed(OFFER, macro_packet(b"M", b"i", b"Q1"))
    assert await rig.feed(MAIL) == [b"t"]
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("[s1 Q1] fault ")
    assert text.endswith(
        "in on_mail of test_a_fault_is_one_record_with_an_incident_id.<locals>.Failing: "
        "ValueError: line one\\nline two %s; the answer is TEMPFAIL"
    )
    assert len(text.split("fault ")[1].split()[0]) == 8
    assert record.exc_info is not None
    assert (record.name, record.levelno) == ("aiomilter", logging.ERROR)


@pytest.mark.parametrize("status", [Status.ACCEPT, Status.CONTINUE])
async def test_the_record_of_a_fault_that_lets_mail_pass_says_so(
    status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            raise ValueError

    rig = Rig(Failing, FaultPolicy(status, 8.0, 240.0))
    replies = await rig.feed(OFFER, MAIL)
    assert replies[1:] == [b"a" if status is Status.ACCEPT else b"c"]
    assert caplog.messages[0].endswith(f"{status.name}, so mail passes unfiltered")


async def test_ignored_commands_are_logged_once_a_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "aiomilter")
    rig = Rig(Everything)
    await rig.feed(OFFER, CONNECT, HELO)
    for _ in range(3):
        assert await rig.feed(DATA) == []
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
    assert "ignored a data command after HELO without an answer" in caplog.messages[0]
    assert rig.milter.calls[-1] == ("helo", "mx.example")
