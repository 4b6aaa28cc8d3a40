"""Every verdict that a milter can give, as SMTP client and recipient see it from Postfix."""

import pytest

from aiomilter import EomActions, Milter, Reply, SocketInfo, Status
from tests.integration.journal import Journal
from tests.integration.rig import Rig
from tests.integration.smtp import SmtpClient, SmtpReply

pytestmark = pytest.mark.xdist_group("postfix")

Verdict = Status | Reply
CONTENT = b"Subject: x\r\n\r\nbody\r\n"
MESSAGE_STAGES = ["mail", "rcpt", "data", "header", "eoh", "body", "eom"]


class OneVerdict(Milter):
    """Gives one verdict, in the first event of one stage, and goes on everywhere else."""

    stage: str
    verdict: Verdict
    given = False

    def answer(self, stage: str) -> Verdict:
        """Return the verdict once."""
        if stage != self.stage or self.given:
            return Status.CONTINUE
        self.given = True
        return self.verdict

    async def on_mail(self, sender: str, params: list[str]) -> Verdict:
        return self.answer("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> Verdict:
        return self.answer("rcpt")

    async def on_data(self) -> Verdict:
        return self.answer("data")

    async def on_header(self, name: str, value: str) -> Verdict:
        return self.answer("header")

    async def on_eoh(self) -> Verdict:
        return self.answer("eoh")

    async def on_body(self, chunk: bytes) -> Verdict:
        return self.answer("body")

    async def on_eom(self, actions: EomActions) -> Verdict:
        return self.answer("eom")


def one_verdict(stage: str, verdict: Verdict) -> type[Milter]:
    """Return a milter that gives ``verdict`` at ``stage``."""

    class Decided(OneVerdict):
        pass

    Decided.stage = stage
    Decided.verdict = verdict
    return Decided


async def assert_next_message_passes(rig: Rig, smtp: SmtpClient) -> None:
    """Check that the same session still takes mail."""
    await smtp.command("RSET")
    reply = await smtp.message(CONTENT)
    assert (await rig.delivery(reply)).body == b"body\r\n"


@pytest.mark.parametrize("stage", MESSAGE_STAGES)
@pytest.mark.parametrize(
    ("verdict", "code", "lines"),
    [
        (Status.REJECT, 550, ("5.7.1 Command rejected",)),
        (Status.TEMPFAIL, 451, ("4.7.1 Service unavailable - try again later",)),
        (Reply(552, "5.3.4", "too big", "by far"), 552, ("5.3.4 too big", "5.3.4 by far")),
        (Reply(452, None, "later"), 452, ("later",)),
    ],
    ids=["reject", "tempfail", "reply 5xx", "reply 4xx"],
)
async def test_a_refusal_at_any_stage_reaches_the_client(
    rig: Rig, stage: str, verdict: Verdict, code: int, lines: tuple[str, ...]
) -> None:
    async with rig.session(one_verdict(stage, verdict)) as smtp:
        assert await smtp.until_refused(CONTENT) == SmtpReply(code, lines)
        await assert_next_message_passes(rig, smtp)


@pytest.mark.parametrize("stage", MESSAGE_STAGES)
async def test_a_discarded_message_is_accepted_and_not_delivered(rig: Rig, stage: str) -> None:
    class Discarder(OneVerdict):
        stage = ""
        verdict = Status.DISCARD

    Discarder.stage = stage
    async with rig.session(Discarder) as smtp:
        reply = await smtp.message(CONTENT, recipients=["b@dst.example", "c@dst.example"])
        assert reply.code == 250
        await rig.postfix.log_line(f"{reply.queue_id}: milter-discard")
        await assert_next_message_passes(rig, smtp)
    assert reply.queue_id not in [entry.queue_id for entry in await rig.postfix.queue()]
    assert rig.sink.count(reply.queue_id) == 0


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_rcpt_reject_with_several_lines_leaves_the_other_recipients(
    rig: Rig, listener: str
) -> None:
    class Choosy(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
            if recipient == "<nobody@dst.example>":
                return Reply(550, "5.1.1", "no such user", "100% sure", "ask elsewhere")
            return None

    async with rig.session(Choosy, listener) as smtp:
        await smtp.command("MAIL FROM:<a@src.example>")
        assert (await smtp.command("RCPT TO:<b@dst.example>")).code == 250
        refused = await smtp.command("RCPT TO:<nobody@dst.example>")
        assert (await smtp.command("RCPT TO:<c@dst.example>")).code == 250
        reply = await smtp.content(CONTENT)
    assert refused.code == 550
    assert refused.lines == ("5.1.1 no such user", "5.1.1 100% sure", "5.1.1 ask elsewhere")
    delivery = await rig.delivery(reply)
    assert delivery.recipients == ["<b@dst.example>", "<c@dst.example>"]


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "eom"])
async def test_percent_signs_in_a_reply_arrive_as_written(rig: Rig, stage: str) -> None:
    verdict = Reply(550, "5.7.1", "100% spam, %s %% %d%")
    async with rig.session(one_verdict(stage, verdict)) as smtp:
        reply = await smtp.until_refused(CONTENT)
    assert reply == SmtpReply(550, ("5.7.1 100% spam, %s %% %d%",))


async def test_a_reply_of_one_message_is_not_seen_in_the_next(rig: Rig) -> None:
    class Twice(Milter):
        seen = 0

        async def on_eom(self, actions: EomActions) -> Verdict:
            self.seen += 1
            return Reply(550, "5.7.1", "first text") if self.seen == 1 else Status.REJECT

    async with rig.session(Twice) as smtp:
        assert (await smtp.message(CONTENT)).text == "5.7.1 first text"
        assert (await smtp.message(CONTENT)).text == "5.7.1 Command rejected"


async def test_a_421_makes_postfix_hang_up(rig: Rig, journal: Journal) -> None:
    class Tired(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> Reply:
            return Reply(421, "4.3.2", "come back tomorrow")

        async def on_close(self) -> None:
            journal.note("close")

    async with rig.session(Tired) as smtp:
        reply = await smtp.command("MAIL FROM:<a@src.example>")
        assert (reply.code, reply.text) == (421, "4.3.2 come back tomorrow")
        with pytest.raises(ConnectionError):
            await smtp.command("NOOP")
        await journal.until("close")


@pytest.mark.parametrize("stage", MESSAGE_STAGES[:-1])
async def test_accept_ends_the_callbacks_of_this_message_only(
    rig: Rig, journal: Journal, stage: str
) -> None:
    class Accepting(OneVerdict):
        stage = ""
        verdict = Status.ACCEPT

        def answer(self, stage: str) -> Verdict:
            journal.note(stage)
            return super().answer(stage)

        async def on_abort(self) -> None:
            journal.note("abort")

        async def on_close(self) -> None:
            journal.note("close")

    Accepting.stage = stage
    async with rig.session(Accepting) as smtp:
        first = await smtp.message(CONTENT)
        second = await smtp.message(CONTENT)
    await journal.until("close")
    accepted = MESSAGE_STAGES[: MESSAGE_STAGES.index(stage) + 1]
    assert journal.names == [*accepted, *MESSAGE_STAGES, "close"]
    assert (await rig.delivery(first)).body == (await rig.delivery(second)).body == b"body\r\n"


async def test_reject_at_connect(rig: Rig) -> None:
    class Closed(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> Status:
            return Status.REJECT

    port = rig.postfix.port("unix")
    async with rig.milter(Closed), SmtpClient.connect(port) as smtp:
        assert smtp.banner.code == 554
        assert (await smtp.command("MAIL FROM:<a@src.example>")).code == 550


async def test_tempfail_at_connect(rig: Rig) -> None:
    class Busy(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> Status:
            return Status.TEMPFAIL

    async with rig.session(Busy) as smtp:
        assert (await smtp.command("MAIL FROM:<a@src.example>")).code == 451


async def test_accept_at_connect_ends_the_callbacks_of_the_session(
    rig: Rig, journal: Journal
) -> None:
    class Trusting(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> Status:
            journal.note("connect")
            return Status.ACCEPT

        async def on_mail(self, sender: str, params: list[str]) -> Status:
            journal.note("mail")
            return Status.REJECT

        async def on_close(self) -> None:
            journal.note("close")

    async with rig.session(Trusting) as smtp:
        first = await smtp.message(CONTENT)
        second = await smtp.message(CONTENT)
    await rig.delivery(first)
    await rig.delivery(second)
    await journal.until("close")
    assert journal.names == ["connect", "close"]


async def test_reject_at_helo(rig: Rig) -> None:
    class Suspicious(Milter):
        async def on_helo(self, hostname: str) -> Reply | None:
            return None if hostname == "good.example" else Reply(550, "5.7.0", f"not {hostname}")

    async with rig.session(Suspicious) as smtp:
        reply = await smtp.command("MAIL FROM:<a@src.example>")
        assert (reply.code, reply.text) == (550, "5.7.0 not client.example")
