"""The plan of edits of a whole message, against the models of both MTAs."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomilter import EomActions
from aiomilter.app.message import (
    Body,
    EnvelopeAddress,
    Header,
    Headers,
    Message,
    Plan,
    Recipients,
    plan_edits,
)
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery, deliver
from aiomilter.app.mta.edits import (
    BodyReplaced,
    Edit,
    HeaderAdded,
    HeaderChanged,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.kind import Mta, detect_mta
from tests.app.message.edits import edit_randomly, lines_of, random_headers
from tests.mta import split_packets

KINDS = pytest.mark.parametrize("kind", [*Mta, None])


def message_of(
    recipients: Sequence[EnvelopeAddress] = (),
    headers: Sequence[tuple[str, str]] = (("Subject", "s"),),
    body: bytes = b"body\r\n",
    sender: EnvelopeAddress | None = None,
) -> Message:
    given = recipients or [EnvelopeAddress.received("<b@dst.example>")]
    return Message(
        sender or EnvelopeAddress.received("<a@src.example>", ["SIZE=10", "RET=HDRS"]),
        Recipients(given),
        Headers(headers),
        Body(body),
    )


def delivered(message: Message, mta: Mta, plan: Plan) -> Delivery:
    """Return what a model makes of a plan."""
    sender, recipients = message.original_sender, message.recipients.original
    envelope = Envelope(
        Path(sender.address, *sender.params), [Path(one.address, *one.params) for one in recipients]
    )
    content = Content(
        [(one.name, one.raw_value.decode()) for one in message.headers.original],
        b"".join(message.body.iter_original()),
    )
    edits: tuple[Edit, ...] = plan.edits
    if plan.body is not None:
        edits = (*edits, BodyReplaced(plan.body.read()))
    return deliver(mta, envelope, content, edits, leading_space=True)


def servers_of(kind: Mta | None) -> tuple[Mta, ...]:
    return tuple(Mta) if kind is None else (kind,)


def edit_envelope(random: Random, message: Message) -> None:
    addresses = [f"<{local}@dst.example>" for local in ("b", "c", "d", "B", "x")]
    for _ in range(random.randrange(4)):
        address = random.choice(addresses)
        if random.random() < 0.5:
            message.recipients.discard(address)
        else:
            message.recipients.add(address)
    if random.random() < 0.3:
        message.sender = random.choice(["<>", "<a@src.example>", "n@src.example"])
    if random.random() < 0.3:
        message.body.replace(random.choice([b"", b"body\r\n", b"new\nbody"]))
    if random.random() < 0.1:
        message.quarantine("why")


@KINDS
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_wanted_message_comes_out(kind: Mta | None, seed: int) -> None:
    random = Random(seed)
    locals_ = random.sample(["b", "c", "d", "B"], random.randrange(1, 5))
    message = message_of(
        [EnvelopeAddress.received(f"<{local}@dst.example>") for local in locals_],
        random_headers(random),
    )
    edit_randomly(random, message.headers)
    edit_envelope(random, message)
    plan = plan_edits(message, kind)
    for mta in servers_of(kind):
        result = delivered(message, mta, plan)
        assert list(result.content.headers) == lines_of(message.headers)
        assert result.content.body == message.body.read()
        assert result.envelope.sender.address == message.sender.address
        got = {path.address for path in result.envelope.recipients}
        wanted = {str(one) for one in message.recipients}
        # Postfix delivers once to two that differ in case alone.
        if mta is Mta.POSTFIX:
            got, wanted = {one.lower() for one in got}, {one.lower() for one in wanted}
        assert got == wanted, plan.edits
        assert (result.quarantine is None) == (message.quarantine_reason is None)


@KINDS
def test_nothing_changed_is_nothing_to_do(kind: Mta | None) -> None:
    message = message_of()
    message.sender = "a@src.example"
    message.recipients.discard("b@dst.example")
    message.recipients.add("<b@DST.example>")
    message.recipients.add("n@x")
    message.recipients.discard("n@x")
    message.headers.replace("Subject", "other")
    message.headers.replace("Subject", "s")
    message.body.replace(b"body")
    plan = plan_edits(message, kind)
    # Another spelling of the domain is what the MTA would be told to make of it.
    assert plan.edits == ()
    assert not plan
    assert plan.body is None
    assert plan.losses == ()


@KINDS
def test_a_sender_keeps_its_parameters_unless_others_are_given(kind: Mta | None) -> None:
    message = message_of()
    message.sender = "new@src.example"
    assert plan_edits(message, kind).edits == (SenderChanged("<new@src.example>", None),)
    assert message.sender.params == ("SIZE=10", "RET=HDRS")
    with pytest.raises(ValueError, match="no CR, LF or NUL"):
        message.sender = "a@b\r\nRCPT TO:<c@d>"


def test_parameters_of_a_sender_are_what_the_mta_takes() -> None:
    message = message_of()
    message.sender = EnvelopeAddress("<a@src.example>", "SMTPUTF8", "SIZE=10", "ENVID=x")
    plan = plan_edits(message, Mta.POSTFIX)
    assert plan.edits == (SenderChanged("<a@src.example>", "ENVID=x"),)
    assert plan.losses == (
        "Postfix keeps the sender's parameter 'RET'",
        "Postfix keeps the sender's parameter 'SMTPUTF8'",
    )
    for kind in (Mta.SENDMAIL, None):
        plan = plan_edits(message, kind)
        assert plan.edits == (SenderChanged("<a@src.example>", "SIZE=10 ENVID=x SMTPUTF8"),)
    message.sender = EnvelopeAddress("<a@src.example>", "SIZE=10")
    plan = plan_edits(message, Mta.POSTFIX)
    assert plan.edits == ()
    assert plan.losses == ("Postfix keeps the sender's parameter 'RET'",)
    message.sender = EnvelopeAddress("<a@src.example>")
    assert plan_edits(message, Mta.SENDMAIL).edits == (SenderChanged("<a@src.example>", ""),)


@KINDS
def test_other_parameters_of_a_recipient_are_a_deletion_and_an_addition(kind: Mta | None) -> None:
    message = message_of([EnvelopeAddress.received("<b@dst.example>", ["NOTIFY=NEVER", "X=1"])])
    message.recipients.add("b@dst.example", "NOTIFY=SUCCESS")
    plan = plan_edits(message, kind)
    assert plan.edits == (
        RecipientDeleted("<b@dst.example>"),
        RecipientAdded("<b@dst.example>", "NOTIFY=SUCCESS"),
    )
    assert bool(plan.losses) == (kind is not Mta.POSTFIX)
    result = delivered(message, Mta.POSTFIX, plan)
    assert result.envelope.recipients == (Path("<b@dst.example>", "NOTIFY=SUCCESS"),)


@KINDS
def test_all_spellings_of_a_recipient_are_deleted(kind: Mta | None) -> None:
    texts = ["<b@dst.example>", "<b@DST.example>", "<b@dst.example>", "<c@dst.example>"]
    message = message_of([EnvelopeAddress.received(text) for text in texts])
    message.recipients.discard("b@dst.example")
    plan = plan_edits(message, kind)
    assert plan.edits == (RecipientDeleted("<b@dst.example>"), RecipientDeleted("<b@DST.example>"))


def test_a_recipient_that_postfix_has_dropped_comes_back() -> None:
    message = message_of(
        [EnvelopeAddress.received("<B@dst.example>"), EnvelopeAddress.received("<b@dst.example>")]
    )
    message.recipients.discard("B@dst.example")
    deleted = RecipientDeleted("<B@dst.example>")
    assert plan_edits(message, Mta.SENDMAIL).edits == (deleted,)
    for kind in (Mta.POSTFIX, None):
        edits = plan_edits(message, kind).edits
        assert edits == (deleted, RecipientAdded("<b@dst.example>", None))


async def nothing() -> None:
    """Stand in for what tells of progress."""


def test_a_plan_is_made_on_the_actions_of_an_end_of_message() -> None:
    message = message_of(
        [EnvelopeAddress.received("<b@dst.example>")], [("Subject", "s"), ("X", "1")]
    )
    message.sender = "<>"
    message.recipients.discard("b@dst.example")
    message.recipients.add("n@x")
    message.headers.replace("Subject", "new")
    message.headers.remove("X")
    message.headers.add("Y", "2")
    message.headers.prepend("Z", "3")
    message.body.replace(b"new\n")
    message.quarantine("why")
    plan = plan_edits(message)
    actions = EomActions(0x1FF, nothing)
    plan.apply(actions)
    assert split_packets(actions.close()) == [
        b"e<>\0",
        b"-<b@dst.example>\0",
        b"+<n@x>\0",
        b"m\0\0\0\x01Subject\0 new\0",
        b"m\0\0\0\x01X\0\0",
        b"hY\0 2\0",
        b"i\0\0\0\x01Z\0 3\0",
        b"qwhy\0",
        b"bnew\r\n",
    ]


def test_an_empty_new_body_is_sent_too() -> None:
    message = message_of()
    message.body.replace(b"")
    actions = EomActions(0x1FF, nothing)
    plan_edits(message).apply(actions)
    assert actions.close() == b"\0\0\0\1b"


def test_a_body_among_edits_is_made_too() -> None:
    actions = EomActions(0x1FF, nothing)
    Plan((BodyReplaced(b"x\r\n"), Quarantined("why")), None).apply(actions)
    assert actions.close() == b"\0\0\0\4bx\r\n\0\0\0\5qwhy\0"


def test_bytes_that_are_no_text_are_moved_unharmed() -> None:
    message = message_of()
    message.headers.add(Header(b"X", b" \xff"))
    assert plan_edits(message).edits == (HeaderAdded("X", " \udcff"),)


def test_an_emptied_header_is_changed() -> None:
    message = message_of()
    message.headers.replace("Subject", "")
    assert plan_edits(message).edits == (HeaderChanged("Subject", 1, " "),)


@pytest.mark.parametrize(
    ("macros", "kind"),
    [
        ({"v": "Postfix 3.7.11", "j": "x"}, Mta.POSTFIX),
        ({"v": "8.17.1.9", "j": "x"}, Mta.SENDMAIL),
        ({"{if_name}": "localhost"}, Mta.SENDMAIL),
        ({"{if_addr}": "192.0.2.1"}, Mta.SENDMAIL),
        ({"j": "x", "{daemon_name}": "smtpd"}, None),
        ({"v": "other"}, None),
        ({}, None),
    ],
)
def test_macros_tell_the_mta(macros: dict[str, str], kind: Mta | None) -> None:
    assert detect_mta(macros) is kind
