"""Whole messages between session and handler: what is gathered, and what becomes of edits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from aiomilter import (
    Message,
    MessageNeeds,
    Milter,
    Options,
    Reply,
    Status,
    rejected_recipients,
    time_limit,
)
from tests.app.keeper import (
    CURRENT,
    LETTER,
    MESSAGE,
    NO_REPLIES,
    OLD,
    WAITING,
    WHOLE,
    Keeper,
    change_everything,
    descriptors,
    keeper,
    policy,
)
from tests.app.test_dispatch import Rig
from tests.mta import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    EOM,
    HEADER,
    HELO,
    MAIL,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    macros,
    offer,
    packet,
)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


# What is gathered


async def test_a_message_is_gathered_and_only_its_end_is_answered() -> None:
    rig = Rig(Keeper)
    agreed, *replies = await rig.feed(CURRENT, CONNECT, HELO, *MESSAGE)
    options = Options(int.from_bytes(agreed[9:13], "big"))
    assert options & NO_REPLIES == NO_REPLIES & ~(
        Options.NO_REPLY_DATA | Options.NO_REPLY_EOH | Options.NO_REPLY_UNKNOWN
    )
    assert options & (Options.LEADING_SPACE | Options.SKIP) == 0x100400
    assert options & (Options.NO_DATA | Options.NO_EOH | Options.NO_UNKNOWN) == 0x340
    assert not options & (Options.NO_BODY | Options.NO_HEADER | Options.NO_CONNECT)
    assert replies == [b"c"]
    assert rig.milter.seen == [WHOLE]


@pytest.mark.parametrize("old", [OLD, WAITING], ids=["version 2", "waits"])
async def test_an_mta_that_waits_is_answered_at_each_stage(old: bytes) -> None:
    rig = Rig(Keeper)
    _, *replies = await rig.feed(old, CONNECT, HELO, MAIL, RCPT, HEADER, BODY, EOM)
    assert replies == [b"c"] * 7
    ((*envelope, headers, body),) = rig.milter.seen
    # Without LEADING_SPACE the blank that the MTA took off is put back.
    blank = b" " if old is OLD else b""
    assert headers == [("Subject", blank + b"hello")]
    assert (*envelope, body) == (WHOLE[0], WHOLE[1], WHOLE[3])


async def test_an_mta_that_does_not_negotiate_is_served_without_edits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(keeper(decide=lambda self, message: message.headers.add("X-A", "b") and None))
    assert (await rig.feed(CONNECT, HELO, *MESSAGE))[-1] == b"t"
    assert len(rig.milter.seen) == 1
    assert "was not agreed" in caplog.text or "ActionNotNegotiated" in caplog.text


async def test_a_value_goes_back_without_the_blank_where_the_mta_puts_one() -> None:
    rig = Rig(keeper(decide=lambda self, message: message.headers.replace("Subject", "x") and None))
    replies = await rig.feed(OLD, MAIL, RCPT, HEADER, EOM)
    assert replies[-2:] == [b"m\0\0\0\1Subject\0x\0", b"c"]
    rig = Rig(keeper(decide=lambda self, message: message.headers.replace("Subject", "x") and None))
    replies = await rig.feed(CURRENT, *MESSAGE)
    assert replies[-2:] == [b"m\0\0\0\1Subject\0 x\0", b"c"]


async def test_with_headers_alone_the_body_is_not_even_sent() -> None:
    rig = Rig(keeper(message_needs=MessageNeeds.HEADERS))
    agreed, *replies = await rig.feed(CURRENT, MAIL, RCPT, HEADER, EOM)
    assert int.from_bytes(agreed[9:13], "big") & Options.NO_BODY
    assert replies == [b"c"]
    assert rig.milter.seen == [(*WHOLE[:3], b"")]


async def test_the_facts_are_those_of_other_handlers_too() -> None:
    facts: list[object] = []

    class Telling(Keeper):
        def decide(self, message: Message) -> None:
            facts.append((self.hostname, str(self.client), self.helo_name, self.sender))
            facts.append((self.recipients, self.queue_id))
            facts.append((message.hostname, str(message.client), message.helo_name))
            facts.append((message.queue_id, message.macros["j"]))

    rig = Rig(Telling)
    await rig.feed(OFFER, macros(b"C", b"j", b"mx"), CONNECT, HELO, macros(b"M", b"i", b"Q1"))
    await rig.feed(*MESSAGE)
    assert facts == [
        ("mx.example", "192.0.2.1:12345", "mx.example", "<alice@a.example>"),
        (("<bob@b.example>",), "Q1"),
        ("mx.example", "192.0.2.1:12345", "mx.example"),
        ("Q1", "mx"),
    ]


async def test_parameters_of_the_envelope_come_with_it() -> None:
    params: list[object] = []
    rig = Rig(
        keeper(
            decide=lambda self, message: params.extend(
                [message.sender.parameters.size, [one.params for one in message.recipients]]
            )
        )
    )
    mail, rcpt = packet(b"M", b"<a@a>\0SIZE=12\0"), packet(b"R", b"<b@b>\0NOTIFY=NEVER\0")
    await rig.feed(OFFER, mail, rcpt, EOM)
    assert params == [12, [("NOTIFY=NEVER",)]]


async def test_the_last_piece_of_a_body_may_come_with_the_end() -> None:
    rig = Rig(Keeper)
    _, *replies = await rig.feed(OFFER, MAIL, RCPT, BODY, packet(b"E", b"bye\r\n"))
    assert replies == [b"c"]
    assert rig.milter.seen[0][3] == b"hello\r\nbye\r\n"


async def test_messages_of_a_connection_have_nothing_of_each_other() -> None:
    rig = Rig(Keeper)
    other = packet(b"M", b"<other@a.example>\0"), packet(b"R", b"<c@c>\0"), EOM
    _, *replies = await rig.feed(OFFER, CONNECT, HELO, *MESSAGE, *other, *MESSAGE)
    assert replies == [b"c"] * 3
    assert rig.milter.seen == [WHOLE, ("<other@a.example>", ["<c@c>"], [], b""), WHOLE]


async def test_a_session_after_quit_nc_begins_anew() -> None:
    rig = Rig(Keeper)
    _, *replies = await rig.feed(OFFER, CONNECT, HELO, MAIL, RCPT, BODY, ABORT, QUIT_NC)
    assert replies == []
    assert await rig.feed(CONNECT, HELO, *MESSAGE, QUIT) == [b"c"]
    assert [milter.seen for milter in rig.made if isinstance(milter, Keeper)] == [[], [WHOLE]]


# Edits


async def test_what_is_unchanged_needs_no_edit() -> None:
    def decide(self: Keeper, message: Message) -> None:
        message.headers.replace("Subject", message.headers.get_text("Subject"))
        message.headers.remove("X-None")
        message.recipients.add("bob@B.EXAMPLE")
        message.sender = "alice@a.example"
        message.body.replace(message.body.read())

    rig = Rig(keeper(decide=decide))
    subject = packet(b"L", b"Subject\0 hello\0")
    _, *replies = await rig.feed(OFFER, MAIL, RCPT, subject, BODY, EOM)
    assert replies == [b"c"]


@pytest.mark.parametrize(
    ("result", "last"),
    [
        (None, b"c"),
        (Status.CONTINUE, b"c"),
        (Status.ACCEPT, b"a"),
        (Status.SKIP, b"c"),
    ],
)
async def test_a_message_that_goes_on_is_edited(result: Any, last: bytes) -> None:
    def decide(self: Keeper, message: Message) -> Any:
        change_everything(message)
        return result

    rig = Rig(keeper(decide=decide))
    _, *replies = await rig.feed(OFFER, *MESSAGE)
    assert b"".join(reply[:1] for reply in replies) == b"e+hqb" + last


@pytest.mark.parametrize(
    ("result", "last"),
    [
        (Status.REJECT, b"r"),
        (Status.TEMPFAIL, b"t"),
        (Status.DISCARD, b"d"),
        (Reply(550, "5.7.1", "no"), b"y550 5.7.1 no\0"),
        (Reply(451, "4.7.1", "later"), b"y451 4.7.1 later\0"),
        (Status.NOREPLY, b"t"),
        (Status.ALL_OPTS, b"t"),
        (object(), b"t"),
        (True, b"t"),
    ],
)
async def test_any_other_verdict_and_a_wrong_result_make_no_edits(
    result: object, last: bytes
) -> None:
    def decide(self: Keeper, message: Message) -> Any:
        change_everything(message)
        return result

    rig = Rig(keeper(decide=decide))
    _, *replies = await rig.feed(OFFER, *MESSAGE, MAIL, RCPT, EOM)
    assert replies[0] == last


@pytest.mark.parametrize("header", [b"X-New", b"Subject"])
async def test_an_edit_that_was_not_agreed_is_a_fault_and_none_is_made(
    header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def decide(self: Keeper, message: Message) -> None:
        message.headers.replace(header.decode(), "x")
        message.body.replace(b"new\r\n")

    rig = Rig(keeper(decide=decide))
    # Headers may be added and changed, the body not.
    _, *replies = await rig.feed(offer(0x11), *MESSAGE, *MESSAGE)
    assert replies == [b"t", b"t"]
    assert caplog.text.count("fault ") == 2
    assert "on_message" in caplog.text
    assert "REPLACE_BODY" in caplog.text


@pytest.mark.parametrize("nonsense", [7, None, []])
async def test_nonsense_in_place_of_the_headers_is_a_fault(nonsense: object) -> None:
    def decide(self: Keeper, message: Message) -> None:
        message.headers = nonsense  # type: ignore[assignment]  # as an author might

    rig = Rig(keeper(decide=decide))
    _, *replies = await rig.feed(OFFER, *MESSAGE)
    assert replies == [b"t"]


async def test_what_an_mta_cannot_be_brought_to_do_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decide(self: Keeper, message: Message) -> None:
        message.recipients.add("<bob@b.example>", "NOTIFY=NEVER")

    rig = Rig(keeper(decide=decide))
    sendmail = macros(b"C", b"{if_name}", b"mx")
    await rig.feed(OFFER, sendmail, CONNECT, HELO, *MESSAGE)
    assert "Sendmail keeps the parameters of the recipient '<bob@b.example>'" in caplog.text


async def test_edits_that_take_long_are_made_in_a_thread() -> None:
    def decide(self: Keeper, message: Message) -> None:
        for header in list(message.headers):
            message.headers.replace(header, "x")

    few = Rig(keeper(decide=decide))
    await few.feed(OFFER, MAIL, RCPT, *[HEADER] * 50, EOM)
    many = Rig(keeper(decide=decide))
    replies = await many.feed(OFFER, MAIL, RCPT, *[HEADER] * 150, EOM)
    assert (few.host.in_thread, many.host.in_thread) == (0, 1)
    assert len(replies) == 1 + 150 + 1
    unchanged = Rig(Keeper)
    await unchanged.feed(OFFER, MAIL, RCPT, *[HEADER] * 150, EOM)
    assert unchanged.host.in_thread == 0


async def test_a_fault_while_edits_are_made_in_a_thread_is_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decide(self: Keeper, message: Message) -> None:
        message.body.replace(b"new\r\n")

    rig = Rig(keeper(decide=decide), policy(spool_threshold=3))
    _, *replies = await rig.feed(offer(0x11), *MESSAGE)
    assert replies == [b"t"]
    # One for the piece of the body, one for the edits.
    assert rig.host.in_thread == 2
    assert "REPLACE_BODY" in caplog.text


async def test_a_plain_handler_runs_in_a_thread() -> None:
    class Blocking(Milter):
        def on_message(self, message: Message) -> Status:
            message.headers.add("X-Size", str(message.body.size))
            return Status.ACCEPT

    rig = Rig(Blocking)
    _, *replies = await rig.feed(OFFER, *MESSAGE)
    assert replies == [b"hX-Size\0 7\0", b"a"]
    assert rig.host.in_thread == 1


async def test_it_has_the_budget_of_the_end_of_a_message_unless_it_has_its_own() -> None:
    class Limited(Keeper):
        @time_limit(17)
        async def on_message(self, message: Message) -> None:
            """Decide nothing."""

    for milter, limit_s in ((Keeper, 240.0), (Limited, 17.0)):
        rig = Rig(milter)
        await rig.feed(OFFER, *MESSAGE)
        assert [clock[0] for clock in rig.host.clocks] == [limit_s]


# Verdicts ahead of the end


@pytest.mark.parametrize("offered", [CURRENT, WAITING])
async def test_on_rcpt_decides_for_each_recipient(offered: bytes) -> None:
    class Choosy(Keeper):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
            if recipient.startswith("<no"):
                return Reply(550, "5.1.1", "nobody")
            return Status.TEMPFAIL if recipient.startswith("<later") else None

    rig = Rig(Choosy)
    rcpts = [packet(b"R", b"<%b@b.example>\0" % name) for name in (b"no", b"a", b"later", b"b")]
    _, *replies = await rig.feed(offered, MAIL, *rcpts, HEADER, EOM)
    waited = [] if offered is CURRENT else [b"c"]
    assert replies == [*waited, b"y550 5.1.1 nobody\0", b"c", b"t", b"c", *waited, b"c"]
    assert rig.milter.seen[0][1] == ["<a@b.example>", "<b@b.example>"]


async def test_a_recipient_that_the_mta_has_refused_is_not_in_the_message() -> None:
    class Watching(Keeper):
        @rejected_recipients
        async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    rig = Rig(Watching)
    refused = macros(b"R", b"{rcpt_mailer}", b"error"), packet(b"R", b"<no@b>\0")
    await rig.feed(OFFER, MAIL, *refused, macros(b"R", b"{rcpt_mailer}", b"smtp"), RCPT, EOM)
    assert rig.milter.seen[0][1] == ["<bob@b.example>"]


async def test_a_fault_at_a_recipient_leaves_it_out() -> None:
    class Failing(Keeper):
        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            if recipient == "<bob@b.example>":
                raise KeyError(recipient)

    rig = Rig(Failing)
    _, *replies = await rig.feed(OFFER, MAIL, RCPT, packet(b"R", b"<c@c>\0"), EOM)
    assert replies == [b"t", b"c", b"c"]
    assert rig.milter.seen[0][1] == ["<c@c>"]


@pytest.mark.parametrize("status", [Status.ACCEPT, Status.REJECT, Status.TEMPFAIL, Status.DISCARD])
@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt", "data"])
async def test_a_verdict_of_another_handler_ends_the_message_ahead_of_on_message(
    stage: str, status: Status
) -> None:
    rig = Rig(keeper(Deciding, stage=stage, status=status))
    packets = {"connect": CONNECT, "helo": HELO, "mail": MAIL, "rcpt": RCPT, "data": DATA}
    sent: list[bytes] = [OFFER]
    for name, data in packets.items():
        sent.append(data)
        if name == stage:
            break
    replies = await rig.feed(*sent)
    assert replies[-1] == LETTER[status]
    # A refusal there is one of this recipient; and libmilter does not end a discarded one there.
    assert rig.session.message_is_open == (stage == "rcpt" and status is not Status.ACCEPT)
    await rig.feed(ABORT)
    assert rig.milter.seen == []
    # What comes next is a message of its own.
    rig.milter.status = None
    replies = await rig.feed(MAIL, RCPT, HEADER, BODY, EOM)
    assert replies[-1] == b"c"
    assert rig.milter.seen == [WHOLE]


class Deciding(Keeper):
    """Has a verdict at one stage."""

    stage: ClassVar[str]
    status: Status | None

    def at(self, stage: str) -> Status | None:
        return self.status if stage == self.stage else None

    async def on_connect(self, hostname: str, client: object) -> Any:
        return self.at("connect")

    async def on_helo(self, hostname: str) -> Any:
        return self.at("helo")

    async def on_mail(self, sender: str, params: list[str]) -> Any:
        return self.at("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
        return self.at("rcpt")

    async def on_data(self) -> Any:
        return self.at("data")
