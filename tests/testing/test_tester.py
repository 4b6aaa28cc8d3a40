from __future__ import annotations

import asyncio
import logging
import threading
import time
from email.message import EmailMessage
from functools import partial
from pathlib import Path as FilePath

import pytest

from aiomilter import (
    Actions,
    Config,
    ConfigError,
    EomActions,
    LocalProtocolError,
    Milter,
    MilterUnavailable,
    Reply,
    SocketInfo,
    Status,
    no_reply,
    time_limit,
)
from aiomilter.testing import Call, Client, Content, HandlerFault, MilterTester, Mta, Offer, Path


class Journal(Milter):
    """Writes down whatever happens."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.lines.append(f"connect {hostname}")

    async def on_helo(self, hostname: str) -> None:
        self.lines.append(f"helo {hostname}")

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.lines.append(" ".join(["mail", sender, *params]))

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        self.lines.append(" ".join(["rcpt", recipient, *params]))
        return Reply(550, "5.1.1", "no such user") if "nobody" in recipient else None

    async def on_data(self) -> None:
        self.lines.append("data")

    async def on_header(self, name: str, value: str) -> Status:
        self.lines.append(f"header {name}: {value}")
        return Status.REJECT if name == "X-Bad" else Status.CONTINUE

    async def on_eoh(self) -> None:
        self.lines.append("eoh")

    async def on_body(self, chunk: bytes) -> None:
        self.lines.append(f"body {chunk!r}")

    async def on_eom(self, actions: EomActions) -> Status:
        self.lines.append("eom")
        return Status.ACCEPT

    async def on_unknown(self, command: str) -> None:
        self.lines.append(f"unknown {command}")

    async def on_abort(self) -> None:
        self.lines.append("abort")

    async def on_close(self) -> None:
        self.lines.append("close")


def lines_of(tester: MilterTester, index: int = -1) -> list[str]:
    milter = tester.milters[index]
    assert isinstance(milter, Journal)
    return milter.lines


BEGIN = ["connect client.example.org", "helo client.example.org"]
ENVELOPE = ["mail <sender@example.com>", "rcpt <recipient@example.org>", "data"]


def test_a_stage_out_of_the_blue_brings_those_before_it() -> None:
    with MilterTester(Journal) as tester:
        tester.header("X-Own", "1").assert_continued()
        assert lines_of(tester) == [*BEGIN, *ENVELOPE, "header X-Own: 1"]
        tester.end_of_message().assert_accepted()
        assert lines_of(tester)[-3:] == ["eoh", r"body b'Hello!\r\n'", "eom"]
        # The next message is in the same session, and its headers are those of the default.
        tester.body(b"x")
        assert lines_of(tester)[9:13] == [*ENVELOPE, "header From: Sender <sender@example.com>"]
    assert lines_of(tester)[-3:] == [r"body b'x'", "abort", "close"]


def test_every_stage_can_be_said_in_its_turn() -> None:
    with MilterTester(Journal) as tester:
        tester.connect(Client("mx.example.com", "2001:db8::1"))
        tester.helo("me")
        tester.helo("me again")
        tester.mail(Path("a@example.com", "SIZE=1"))
        tester.rcpt("b@example.org")
        tester.rcpt("<c@example.org>")
        tester.data()
        tester.header("Subject", "one\n\ttwo")
        tester.end_of_headers()
        tester.body(b"")
        result = tester.end_of_message()
        assert lines_of(tester) == [
            "connect mx.example.com",
            "helo me",
            "helo me again",
            "mail <a@example.com> SIZE=1",
            "rcpt <b@example.org>",
            "rcpt <c@example.org>",
            "data",
            "header Subject: one\n\ttwo",
            "eoh",
            "eom",
        ]
        assert result.message == Content([("Subject", " one\n\ttwo")], b"")
        assert [step.stage for step in result.steps][-2:] == ["eoh", "eom"]


@pytest.mark.parametrize("mta", Mta)
def test_one_of_several_recipients_is_refused(mta: Mta) -> None:
    with MilterTester(Journal, mta=mta) as tester:
        result = tester.send(recipients=["nobody@example.org", "b@example.org"])
        result.assert_accepted()
        result.assert_recipient_refused("nobody@example.org", 550, "no such")
        assert result.envelope.recipient_addresses == ("<b@example.org>",)
        tester.rcpt("nobody@example.org").assert_rejected(550, "no such user")
        # Nobody is left: the client hears no to DATA, and the milter of no header.
        assert tester.header("A", "b").stage == "rcpt"
        tester.end_of_message().assert_rejected(550)
        assert lines_of(tester)[-2:] == ["rcpt <nobody@example.org>", "abort"]


def test_after_a_verdict_the_milter_is_not_asked_any_more() -> None:
    with MilterTester(Journal) as tester:
        tester.header("X-Bad", "1").assert_rejected()
        said = len(lines_of(tester))
        later = tester.body(b"more")
        assert (later.stage, later.status) == ("header", Status.REJECT)
        assert tester.end_of_message().stage == "header"
        assert len(lines_of(tester)) == said
        tester.send().assert_accepted()


def test_a_verdict_at_helo_holds_for_the_session() -> None:
    class Closed(Milter):
        async def on_helo(self, hostname: str) -> Reply:
            return Reply(554, None, "go away")

    with MilterTester(Closed) as tester:
        result = tester.mail()
        assert result.stage == "helo"
        result.assert_rejected(554, "go away")
        tester.unknown("X").assert_rejected(554)
        tester.end_of_message().assert_rejected(554)
        tester.abort()
        tester.send().assert_rejected(554)
        tester.rcpt().assert_rejected(554)


def test_stages_do_not_go_back() -> None:
    with MilterTester(Journal) as tester:
        tester.data()
        with pytest.raises(LocalProtocolError, match=r"rcpt does not follow data: .* mail\(\)"):
            tester.rcpt()
        with pytest.raises(LocalProtocolError, match="data does not follow data"):
            tester.data()
        tester.end_of_message().assert_accepted()


def test_messages_of_every_type(tmp_path: FilePath) -> None:
    text = "Subject: x\n\nHello!\n"
    path = tmp_path / "message.eml"
    path.write_text(text, encoding="ascii")
    mail = EmailMessage()
    mail["Subject"] = "x"
    mail.set_content("Hello!\n")
    with MilterTester(Journal) as tester:
        for message in (text, text.encode(), path, Content.parse(text)):
            assert tester.send(message).message == Content([("Subject", " x")], b"Hello!\r\n")
        assert tester.send(mail).message.get("subject") == "x"


def test_sessions_connections_and_the_milters_of_each() -> None:
    with MilterTester(Journal) as tester:
        tester.send()
        tester.send(client=Client("other.example", "192.0.2.9"))
        assert [lines_of(tester, at)[0] for at in (0, 1)] == [BEGIN[0], "connect other.example"]
        assert lines_of(tester, 0)[-1] == "close"
        tester.connect()
        tester.mail()
        tester.new_session()
        assert lines_of(tester, 2)[-2:] == ["abort", "close"]
        tester.mail()
        tester.disconnect()
        assert lines_of(tester, 3)[-2:] == ["abort", "close"]
        tester.send()
        tester.quit()
        tester.quit()
        assert lines_of(tester, 4)[-2:] == ["eom", "close"]
        assert len(tester.milters) == 5


def test_an_old_mta_opens_another_connection_for_another_session() -> None:
    with MilterTester(Journal, offer=Offer(version=4)) as tester:
        tester.send()
        tester.send(client=Client("other.example", "192.0.2.9"))
        assert len(tester.milters) == 2


@pytest.mark.parametrize("method", ["abort", "new_session", "unknown"])
def test_what_is_no_stage_can_come_first(method: str) -> None:
    with MilterTester(Journal) as tester:
        tester.play([Call(method, ("XYZZY",) if method == "unknown" else ())])
        tester.send().assert_accepted()
    assert lines_of(tester)[-1] == "close"


def test_a_call_is_what_an_mta_does() -> None:
    with pytest.raises(ValueError, match="'close': it does abort, body"):
        Call("close")
    assert repr(Call("header", ("a", "b"))) == "header('a', 'b')"


def test_macros_of_the_tester_and_of_a_message() -> None:
    class Macros(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> Reply:
            return Reply(550, None, self.macros["{auth_authen}"])

    with MilterTester(Macros, macros={"{auth_authen}": "joe"}) as tester:
        tester.send().assert_rejected(text="joe")
        tester.send(macros={"auth_authen": "ann"}).assert_rejected(text="ann")


@pytest.mark.parametrize("chunk_bytes", [1, 3, 1000])
def test_packets_cut_anywhere(chunk_bytes: int) -> None:
    with MilterTester(Journal, chunk_bytes=chunk_bytes) as tester:
        tester.send().assert_accepted()
    with MilterTester(Journal) as whole:
        whole.send()
    assert lines_of(tester) == lines_of(whole)


def test_a_chunk_has_a_byte() -> None:
    with pytest.raises(ValueError, match="chunk_bytes is at least 1, not 0"):
        MilterTester(Journal, chunk_bytes=0)


def test_handlers_that_nobody_waits_for_have_run_when_a_call_returns() -> None:
    class Slow(Milter):
        seen = 0

        @no_reply
        def on_header(self, name: str, value: str) -> None:
            threading.Event().wait(0.02)
            self.seen += 1

    with MilterTester(Slow) as tester:
        tester.header("A", "b").assert_continued()
        (milter,) = tester.milters
        assert isinstance(milter, Slow)
        assert milter.seen == 1


class Broken(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        raise KeyError(recipient)


class BrokenInThread(Milter):
    def on_rcpt(self, recipient: str, params: list[str]) -> None:
        raise SystemExit(recipient)


@pytest.mark.parametrize(("milter", "error"), [(Broken, KeyError), (BrokenInThread, SystemExit)])
def test_a_fault_fails_the_call_with_its_cause(
    milter: type[Milter], error: type[BaseException]
) -> None:
    with MilterTester(milter) as tester:
        with pytest.raises(HandlerFault, match=rf"^on_rcpt of {milter.__name__}: ") as caught:
            tester.send()
        assert isinstance(caught.value.__cause__, error)
        traceback = caught.value.__cause__.__traceback__
        assert traceback is not None
        # The next call is not about a fault that is known.
        tester.mail().assert_continued()


def test_what_the_mta_sees_of_a_fault() -> None:
    logger = logging.getLogger("aiomilter")
    logger.disabled = True  # as by a program's own configuration of its log
    try:
        with MilterTester(Broken, raise_faults=False) as tester:
            tester.rcpt("a@example.org").assert_tempfailed()
            (fault,) = tester.faults
        with MilterTester(Broken, raise_faults=False, config=Config(on_error="reject")) as tester:
            tester.rcpt().assert_rejected()
            with pytest.raises(HandlerFault):
                tester.check_faults()
            tester.check_faults()
    finally:
        logger.disabled = False
    assert (fault.handler, fault.milter) == ("on_rcpt", "Broken")
    assert isinstance(fault.error, KeyError)
    assert len(fault.incident) == 8
    assert str(fault).endswith(f"(incident {fault.incident})")


def test_the_incident_is_that_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(Broken, raise_faults=False) as tester:
        tester.send()
        (fault,) = tester.faults
    assert f"fault {fault.incident} in on_rcpt of Broken" in caplog.text


def test_faults_of_hooks_and_of_the_factory() -> None:
    class Hooks(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            pass

        async def on_abort(self) -> None:
            raise OSError("abort")

        async def on_close(self) -> None:
            raise OSError("close")

    tester = MilterTester(Hooks)
    tester.mail()
    with pytest.raises(HandlerFault, match=r"^on_abort of .*Hooks: OSError: abort") as caught:
        tester.close()
    assert "on_close of " in caught.value.__notes__[0]

    def fail() -> Milter:
        raise OSError("no database")

    with MilterTester(fail) as tester, pytest.raises(HandlerFault, match="the factory"):
        tester.send()


def test_a_test_that_has_failed_is_not_told_of_faults() -> None:
    class Hooks(Milter):
        async def on_close(self) -> None:
            raise OSError("close")

    def run() -> None:
        with MilterTester(Hooks) as tester:
            tester.send()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


class Endless(Milter):
    async def on_eom(self, actions: EomActions) -> None:
        await asyncio.Event().wait()


class EndlessThread(Milter):
    @time_limit(100)
    def on_data(self) -> None:
        threading.Event().wait(2)


class Stubborn(Milter):
    async def on_close(self) -> None:
        while True:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                continue


@pytest.mark.parametrize(
    ("milter", "handler"),
    [(Endless, "on_eom"), (EndlessThread, "on_data"), (Stubborn, "on_close")],
)
def test_nothing_hangs(milter: type[Milter], handler: str) -> None:
    began = time.monotonic()
    text = rf"{handler} of {milter.__name__} has not returned"
    with MilterTester(milter, timeout=0.2) as tester, pytest.raises(TimeoutError, match=text):
        tester.play([Call("send"), Call("quit")])
    assert time.monotonic() - began < 5


def test_budgets_are_those_of_the_config() -> None:
    config = Config(eom_timeout=0.05)
    with (
        MilterTester(Endless, config=config) as tester,
        pytest.raises(HandlerFault, match="on_eom of Endless: it took longer"),
    ):
        tester.send()


def test_a_refused_mta_is_told_why() -> None:
    class Adds(Milter):
        actions = Actions.ADD_HEADER

    offer = Offer(actions=Actions.QUARANTINE)
    with MilterTester(Adds, offer=offer) as tester, pytest.raises(MilterUnavailable) as caught:
        tester.send()
    assert any("ADD_HEADER" in note for note in caught.value.__notes__)


def test_a_class_that_cannot_work_is_refused_at_once() -> None:
    class Needy(Milter):
        def __init__(self, pool: object) -> None:
            self.pool = pool

    with pytest.raises(ConfigError, match="partial"):
        MilterTester(Needy)  # type: ignore[arg-type]  # that is the point
    with MilterTester(partial(Needy, object())) as tester:
        tester.send().assert_accepted()


async def test_in_a_coroutine_the_other_tester_is_named() -> None:
    tester = MilterTester(Journal)
    with pytest.raises(RuntimeError, match="AsyncMilterTester"):
        tester.send()
    with pytest.raises(RuntimeError, match="AsyncMilterTester"), tester:
        pass


def test_a_closed_tester_stays_closed() -> None:
    tester = MilterTester(Journal)
    tester.close()
    tester.close()
    with pytest.raises(RuntimeError, match="closed"):
        tester.send()
