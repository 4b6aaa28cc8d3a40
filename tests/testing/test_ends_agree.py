"""The two ends agree: what the MTA says is what handlers see, what they answer is what it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomilter import (
    ActionNotNegotiated,
    EomActions,
    Milter,
    Options,
    Reply,
    SocketInfo,
    Status,
    leading_space,
    no_reply,
)
from aiomilter.mta import (
    BodyReplaced,
    Client,
    Content,
    Edit,
    Envelope,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Mta,
    Offer,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.testing import MilterTester, Result
from aiomilter.testing.strategies import clients, messages, offers

HANDLERS = ("connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "unknown")
REFUSAL = Reply(550, "5.1.1", "100% no")


@dataclass(frozen=True)
class Plan:
    """How a milter is made, and what it does."""

    handlers: frozenset[str]
    observers: frozenset[str]
    in_threads: frozenset[str]
    keeps_blank: bool
    refused: frozenset[int]
    body_chunks: int
    edits: tuple[Edit, ...]
    verdict: Status


@dataclass
class Seen:
    """What the handlers of one message have seen and done."""

    sender: list[str] = field(default_factory=list[str])
    recipients: list[list[str]] = field(default_factory=list[list[str]])
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    chunks: list[bytes] = field(default_factory=list[bytes])
    stages: list[str] = field(default_factory=list[str])
    edits: list[Edit] = field(default_factory=list[Edit])


class Recorder(Milter):
    plan: Plan
    version: int
    clients: list[tuple[str, SocketInfo]]
    helos: list[str]
    messages: list[Seen]

    def __init__(self) -> None:
        self.clients, self.helos, self.messages = [], [], []

    def begin_message(self) -> None:
        self.messages.append(Seen())

    @property
    def seen(self) -> Seen:
        return self.messages[-1]

    def connect(self, hostname: str, client: SocketInfo) -> None:
        self.clients.append((hostname, client))

    def helo(self, hostname: str) -> None:
        self.helos.append(hostname)

    def mail(self, sender: str, params: list[str]) -> None:
        self.seen.sender = [sender, *params]

    def rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        self.seen.recipients.append([recipient, *params])
        is_refused = len(self.seen.recipients) - 1 in self.plan.refused
        return REFUSAL if is_refused and "rcpt" not in self.plan.observers else None

    def data(self) -> None:
        self.seen.stages.append("data")

    def header(self, name: str, value: str) -> None:
        self.seen.headers.append((name, value))

    def eoh(self) -> None:
        self.seen.stages.append("eoh")

    def body(self, chunk: bytes) -> Status:
        self.seen.chunks.append(chunk)
        # An observer's verdict would be dropped; this one is none.
        enough = len(self.seen.chunks) >= self.plan.body_chunks
        return Status.SKIP if enough else Status.CONTINUE

    def unknown(self, command: str) -> None:
        self.seen.stages.append(command)

    async def on_eom(self, actions: EomActions) -> Status:
        for edit in self.plan.edits:
            try:
                make(actions, edit)
            except ActionNotNegotiated:
                continue
            self.seen.edits.append(edit)
        return self.plan.verdict


def make(actions: EomActions, edit: Edit) -> None:
    match edit:
        case HeaderAdded(name, value):
            actions.add_header(name, value)
        case HeaderInserted(index, name, value):
            actions.insert_header(index, name, value)
        case HeaderChanged(name, index, value):
            actions.change_header(name, index, value)
        case SenderChanged(address, params):
            actions.change_sender(address, params)
        case RecipientAdded(address, params):
            actions.add_recipient(address, params)
        case RecipientDeleted(address):
            actions.delete_recipient(address)
        case BodyReplaced(body):
            actions.replace_body(body)
        case Quarantined(reason):
            actions.quarantine(reason)


def milter_class(plan: Plan) -> type[Recorder]:
    """Return a class with the handlers of a plan."""

    def handler(name: str) -> Callable[..., Any]:
        function = getattr(Recorder, name)

        def plain(self: Recorder, *arguments: Any) -> Any:
            return function(self, *arguments)

        async def coroutine(self: Recorder, *arguments: Any) -> Any:
            return function(self, *arguments)

        made = plain if name in plan.in_threads else coroutine
        if name in plan.observers:
            made = no_reply(made)
        return leading_space(made) if name == "header" and plan.keeps_blank else made

    members = {f"on_{name}": handler(name) for name in plan.handlers}
    return type("Made", (Recorder,), {"plan": plan, **members})


EDITS = st.one_of(
    st.builds(HeaderAdded, st.just("X-Added"), st.sampled_from(["1", " 1", "a\n\tb", ""])),
    st.builds(HeaderInserted, st.integers(0, 3), st.just("X-Top"), st.just("ä")),
    st.builds(HeaderChanged, st.just("Subject"), st.integers(0, 2), st.sampled_from(["x", None])),
    st.builds(SenderChanged, st.just("<a@example.com>"), st.sampled_from([None, "RET=HDRS"])),
    st.builds(RecipientAdded, st.just("<b@example.com>"), st.sampled_from([None, "NOTIFY=NEVER"])),
    st.builds(RecipientDeleted, st.just("<recipient@example.org>")),
    st.builds(Quarantined, st.just("a reason")),
)
BODIES = st.builds(
    BodyReplaced, st.sampled_from([b"new\r\n", b"x" * 65_534, b"y" * 65_536, b"z" * 200_000])
)
NAMES = st.frozensets(st.sampled_from(HANDLERS))
PLANS = st.builds(
    Plan,
    handlers=st.one_of(st.just(frozenset(HANDLERS)), NAMES),
    observers=NAMES,
    in_threads=st.frozensets(st.sampled_from(HANDLERS), max_size=2),
    keeps_blank=st.booleans(),
    refused=st.frozensets(st.integers(0, 3)),
    body_chunks=st.integers(1, 4),
    edits=st.tuples(
        st.lists(EDITS, max_size=4), st.lists(BODIES, max_size=1), st.lists(EDITS, max_size=2)
    ).map(lambda parts: tuple(edit for part in parts for edit in part)),
    verdict=st.sampled_from([Status.ACCEPT, Status.CONTINUE, Status.REJECT, Status.DISCARD]),
)


def as_received(text: str) -> str:
    """Return text as it comes out of its bytes: two escaped ones may be a character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def check_message(
    milter: Recorder, seen: Seen, envelope: Envelope, content: Content, result: Result
) -> None:
    plan, handlers = milter.plan, milter.plan.handlers
    asked = [[path.address, *path.params] for path in envelope.recipients]
    refused: list[int] = []
    if "mail" in handlers:
        assert seen.sender == [envelope.sender.address, *envelope.sender.params]
    if "rcpt" in handlers:
        assert seen.recipients == asked
        if "rcpt" not in plan.observers:
            refused = [index for index in range(len(asked)) if index in plan.refused]
    assert [one.answer.is_refusal for one in result.recipients] == [
        index in refused for index in range(len(asked))
    ]
    if len(refused) == len(asked):
        assert (result.stage, result.status, result.reply) == ("rcpt", Status.REJECT, REFUSAL)
        assert (seen.headers, seen.chunks, seen.stages, seen.edits) == ([], [], [], [])
        return
    assert result.stage == "eom"
    assert result.status is (Status.ACCEPT if plan.verdict is Status.CONTINUE else plan.verdict)
    assert list(result.edits) == seen.edits
    stages = ("data", "eoh") if milter.version >= 4 else ("eoh",)
    assert seen.stages == [stage for stage in stages if stage in handlers]
    if "header" in handlers:
        blank = "" if result.outcome.leading_space else " "
        assert seen.headers == [
            (name, as_received(value).removeprefix(blank)) for name, value in content.headers
        ]
    if "body" in handlers:
        assert len(seen.chunks) <= plan.body_chunks
        assert content.body.startswith(b"".join(seen.chunks))
        if len(seen.chunks) < plan.body_chunks:
            assert b"".join(seen.chunks) == content.body


@pytest.mark.unmeasured
@settings(deadline=None, max_examples=150)
@given(
    plan=PLANS,
    offer=offers(),
    mta=st.sampled_from(Mta),
    chunk_bytes=st.sampled_from([None, 1_000, 17]),
    client=clients(),
    mail=st.lists(messages(), min_size=1, max_size=2),
)
def test_what_one_end_says_is_what_the_other_sees(
    plan: Plan,
    offer: Offer,
    mta: Mta,
    chunk_bytes: int | None,
    client: Client,
    mail: list[tuple[Envelope, Content]],
) -> None:
    # As in libmilter, a message without headers may end where a milter still awaits one.
    mail = [
        (envelope, Content(content.headers or [("Subject", " x")], content.body))
        for envelope, content in mail
    ]
    made = milter_class(plan)
    with MilterTester(made, offer=offer, mta=mta, chunk_bytes=chunk_bytes) as tester:
        results = [
            tester.send(
                content, sender=envelope.sender, recipients=envelope.recipients, client=client
            )
            for envelope, content in mail
        ]
    (milter,) = tester.milters
    assert isinstance(milter, Recorder)
    milter.version = offer.version
    if "connect" in plan.handlers:
        ((hostname, info),) = milter.clients
        assert hostname == client.hostname
        assert (info.family == "unknown") == (client.address is None)
    if "helo" in plan.handlers:
        assert milter.helos == [client.helo]
    assert len(milter.messages) == len(mail)
    for seen, (envelope, content), result in zip(milter.messages, mail, results, strict=True):
        check_message(milter, seen, envelope, content, result)


def test_options_are_those_of_the_two_ends() -> None:
    # The property above means something only if its offers make a difference.
    everything = frozenset(HANDLERS)
    nothing: frozenset[int] = frozenset()
    plan = Plan(everything, everything, frozenset(), True, nothing, 9, (), Status.ACCEPT)
    for options, expected in ((Offer().options, True), (Options(0x3FF), False)):
        with MilterTester(milter_class(plan), offer=Offer(options=options)) as tester:
            outcome = tester.send().outcome
        assert outcome.leading_space is expected
        mail_step = next(step for step in outcome.steps if step.stage == "mail")
        assert mail_step.is_answered is not expected
