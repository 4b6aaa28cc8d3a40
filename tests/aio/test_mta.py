"""The MTA's end over real sockets: time, ends of connections, cancelled calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from aiomilter import Status
from aiomilter.app.mta.conversation import Conversation
from aiomilter.errors import LocalProtocolError, MilterUnavailable, RemoteProtocolError
from aiomilter.mta import Client, Envelope, MilterConnection, Mta, Offer, Timeouts, connect
from tests.aio.milter import AGREED, CONTINUE, Milter, listening, milter
from tests.mta import PATIENCE_S, packet

ENVELOPE = Envelope("a@example.com", ["b@example.org"])
MESSAGE = b"From: a@example.com\r\nSubject: test\r\n\r\nbody\r\n"
SOON_S = 0.25
"""Far above what answers take that are to be in time."""
NO_REPLY = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x0f\xf0\x80"
LETTERS = ["C", "H", "M", "R", "T", "L", "N", "B", "E"]
NAMES = ["connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom"]


def impatient(command: float = PATIENCE_S, content: float = PATIENCE_S) -> Timeouts:
    """Times for tests: what is not named is far above what is needed."""
    return Timeouts(connect=PATIENCE_S, command=command, content=content)


async def consult(connection: MilterConnection) -> Status:
    """Send a message."""
    return (await connection.send(ENVELOPE, MESSAGE)).status


async def assert_over(connection: MilterConnection) -> None:
    """Whatever is called now fails at once, and closing does nothing."""
    assert connection.is_over
    with pytest.raises(MilterUnavailable, match="the connection is over; open another one"):
        await connection.mail("a@b")
    await connection.close()


# The usual


@pytest.mark.parametrize("is_unix", [False, True])
async def test_messages_go_over_one_connection(is_unix: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "milter.sock") if is_unix else None
    async with listening(milter(E=packet(b"h", b"X-A\0v\0") + packet(b"a")), path) as where:
        async with connect(where.address) as connection:
            assert connection.agreed.version == 6
            assert connection.name == where.address
            outcomes = [await connection.send(ENVELOPE, MESSAGE) for _ in range(2)]
        await where.until_ended()
    assert [outcome.status for outcome in outcomes] == [Status.ACCEPT] * 2
    assert len(outcomes[1].edits) == 1
    assert where.milters[0].letters == "OCHMRTLLNBEAMRTLLNBEAAQ"
    assert connection.is_over


async def test_awaited_it_is_the_connection_itself() -> None:
    agreed = AGREED.replace(b"\x06", b"\x02")
    async with listening(milter(O=agreed)) as where:
        connection = await connect(where.address, mta=Mta.SENDMAIL, offer=Offer(2))
        assert await consult(connection) is Status.ACCEPT
        assert not connection.is_over
        await connection.close()
        await assert_over(connection)
        await where.until_ended()
    assert where.milters[0].seen[0] == b"O\0\0\0\x02\0\0\x01\xff\0\x1f\xff\xff"
    assert where.milters[0].letters == "OCHMRLLNBEQ"


async def test_an_awaited_connection_is_a_context_manager() -> None:
    async with listening(milter()) as where:
        async with await connect(where.address) as connection:
            assert await consult(connection) is Status.ACCEPT
        assert connection.is_over
        await where.until_ended()
    assert where.milters[0].letters.endswith("Q")


async def test_every_command_is_a_call() -> None:
    async with listening(milter()) as where, connect(where.address) as connection:
        answers = [
            await connection.connect(Client("client.example", "192.0.2.1")),
            await connection.helo("helo.example"),
            await connection.unknown("XYZZY"),
            await connection.mail("a@b"),
            await connection.rcpt("c@d"),
            await connection.data(),
            await connection.header("Subject", " x"),
            await connection.end_of_headers(),
            await connection.body(b"x\r\n"),
            await connection.end_of_message(),
        ]
        await connection.new_session()
        answers.append(await connection.connect())
        assert {answer.status for answer in answers} == {Status.CONTINUE}
    assert where.milters[0].letters.startswith("OCHUMRTLNBEKC")


async def test_another_client_comes_in_on_another_connection() -> None:
    async with listening(milter()) as where, connect(where.address) as connection:
        await connection.send(ENVELOPE, b"X: y\r\n\r\n", client=Client("a", "192.0.2.1"))
        await connection.send(ENVELOPE, b"X: y\r\n\r\n", client=Client("a", "192.0.2.1"))
        await connection.send(ENVELOPE, b"X: y\r\n\r\n", client=Client("b", "192.0.2.2"))
    first, second = where.milters
    assert [one.letters.count("M") for one in (first, second)] == [2, 1]
    assert first.letters.endswith("Q")


async def test_a_fault_of_the_caller_leaves_the_connection() -> None:
    async with listening(milter()) as where, connect(where.address) as connection:
        with pytest.raises(LocalProtocolError, match="do not fit into a packet"):
            await connection.send(ENVELOPE, b"X: " + b"x" * 70_000 + b"\r\n\r\n")
        with pytest.raises(ValueError, match="no text that can be sent"):
            await connection.helo("\ud800")
        with pytest.raises(OSError, match="nowhere"):
            await connection.send(ENVELOPE, Path("/nowhere/at/all"))
        assert await consult(connection) is Status.ACCEPT
    assert where.milters[0].letters.startswith("OCHMRTAMRT")


async def test_one_call_at_a_time() -> None:
    arrived = asyncio.Event()

    async def behave(one: Milter) -> None:
        await one.until(b"M")
        arrived.set()
        await one.until(b"?")

    async with listening(behave) as where, connect(where.address) as connection:
        first = asyncio.create_task(consult(connection))
        await arrived.wait()
        with pytest.raises(LocalProtocolError, match="another call is in progress; one at a time"):
            await connection.abort()
        assert not connection.is_over
        await connection.close()
        with pytest.raises(MilterUnavailable):
            await first


# Times


def test_times_are_those_of_postfix() -> None:
    assert Timeouts() == Timeouts(30.0, 30.0, 300.0)


@pytest.mark.parametrize(
    ("letter", "name"), [("C", "connect"), ("T", "data"), ("L", "header"), ("E", "eom")]
)
async def test_a_milter_that_does_not_answer(letter: str, name: str) -> None:
    async def behave(one: Milter) -> None:
        await one.until(letter.encode())
        await one.command()

    is_content = letter in "LNBE"
    timeouts = impatient(content=SOON_S) if is_content else impatient(command=SOON_S)
    async with listening(behave) as where:
        connection = await connect(where.address, timeouts=timeouts)
        with pytest.raises(MilterUnavailable) as caught:
            await consult(connection)
        assert str(caught.value) == f"{where.address} has not answered {name} within 0.25 s"
        await assert_over(connection)
        await where.until_ended()


async def test_a_milter_that_does_not_answer_the_offer() -> None:
    async def behave(one: Milter) -> None:
        await one.command()
        assert await one.command() == b""

    async with listening(behave) as where:
        with pytest.raises(MilterUnavailable, match=r"has not answered negotiate within 0\.25 s"):
            await connect(where.address, timeouts=impatient(command=SOON_S))
        await where.until_ended()


@pytest.mark.parametrize("letter", ["M", "E"])
async def test_a_byte_now_and_then_does_not_make_the_time_longer(letter: str) -> None:
    async def behave(one: Milter) -> None:
        await one.until(letter.encode())
        for byte in packet(b"y", b"550 5.7.1 " + b"x" * 900 + b"\0"):
            one.write(bytes((byte,)))
            await asyncio.sleep(0.01)

    async with listening(behave) as where:
        connection = await connect(where.address, timeouts=impatient(SOON_S, SOON_S))
        with pytest.raises(MilterUnavailable, match="has not answered"):
            async with asyncio.timeout(2):
                await consult(connection)
        await assert_over(connection)


async def test_progress_begins_the_time_anew() -> None:
    async def behave(one: Milter) -> None:
        await one.until(b"E")
        for _ in range(10):
            await asyncio.sleep(0.05)
            one.write(packet(b"p"))
        one.write(packet(b"a"))
        await one.until(b"?")

    async with (
        listening(behave) as where,
        connect(where.address, timeouts=impatient(content=0.4)) as connection,
    ):
        outcome = await connection.send(ENVELOPE, MESSAGE)
        assert outcome.steps[-1].answer.progress == 10


async def test_a_milter_that_does_not_read() -> None:
    over = asyncio.Event()

    async def behave(one: Milter) -> None:
        await one.command()
        one.write(NO_REPLY)
        await over.wait()

    async with listening(behave) as where:
        connection = await connect(where.address, timeouts=impatient(SOON_S, SOON_S))
        with pytest.raises(MilterUnavailable, match=r"has not read for 0\.25 s"):
            await connection.body(b"x" * 50_000_000)
        await assert_over(connection)
        over.set()


async def test_what_nobody_asked_for_is_not_read() -> None:
    """A milter that floods its MTA is held up, and costs no memory."""
    flood = CONTINUE * 10_000
    stuck = asyncio.Event()

    async def behave(one: Milter) -> None:
        await one.until(b"M", {b"O": NO_REPLY})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    one.write(flood)
                    await one.writer.drain()
        stuck.set()
        one.writer.transport.abort()

    async with listening(behave) as where:
        connection = await connect(where.address)
        await connection.mail("a@b")
        await stuck.wait()
        with pytest.raises((RemoteProtocolError, MilterUnavailable)):
            await connection.end_of_message()
        await assert_over(connection)


# Ends


@pytest.mark.parametrize(("letter", "name"), list(zip(LETTERS, NAMES, strict=True)))
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_milter_that_goes_away(letter: str, name: str, is_reset: bool) -> None:
    async def behave(one: Milter) -> None:
        await one.until(letter.encode())
        if is_reset:
            one.reset()

    async with listening(behave) as where:
        connection = await connect(where.address)
        with pytest.raises(MilterUnavailable) as caught:
            await consult(connection)
        assert str(caught.value).startswith(f"{where.address} ")
        how = "is gone" if is_reset else "has closed the connection"
        assert how in str(caught.value) or is_reset
        assert str(caught.value).endswith(f"instead of an answer to {name}")
        await assert_over(connection)


async def test_a_milter_that_closes_instead_of_negotiating() -> None:
    async with listening(milter(b"O")) as where:
        with pytest.raises(
            MilterUnavailable, match="closed the connection instead of an answer to negotiate"
        ):
            await connect(where.address)


async def test_a_milter_that_closes_within_a_packet() -> None:
    async with listening(milter(b"E", b"\0\0\0\x09hX-A")) as where:
        connection = await connect(where.address)
        with pytest.raises(RemoteProtocolError) as caught:
            await consult(connection)
        assert caught.value.rule == "the connection ends within a packet"
        await assert_over(connection)


async def test_a_verdict_counts_also_if_the_milter_then_goes() -> None:
    async with listening(milter(b"E", packet(b"r"))) as where:
        connection = await connect(where.address, mta=Mta.SENDMAIL)
        assert await consult(connection) is Status.REJECT
        await where.until_ended()
        with pytest.raises(MilterUnavailable):
            await consult(connection)
        await assert_over(connection)


async def test_a_reset_while_writing() -> None:
    async def behave(one: Milter) -> None:
        await one.command()
        one.write(NO_REPLY)
        await one.until(b"B")
        one.reset()

    async with listening(behave) as where:
        connection = await connect(where.address)
        with pytest.raises(MilterUnavailable, match="between two commands"):
            await connection.body(b"x" * 50_000_000)
        await assert_over(connection)


@pytest.mark.parametrize("is_reset", [False, True])
async def test_closing_after_the_milter_has_gone(is_reset: bool) -> None:
    async def behave(one: Milter) -> None:
        await one.until(b"A")
        if is_reset:
            one.reset()

    async with listening(behave) as where:
        async with connect(where.address) as connection:
            assert await consult(connection) is Status.ACCEPT
            await where.until_ended()
        await assert_over(connection)


async def test_closing_where_the_milter_has_said_too_much() -> None:
    async with listening(milter(E=CONTINUE)) as where:
        connection = await connect(where.address, mta=Mta.SENDMAIL)
        assert await consult(connection) is Status.ACCEPT
        where.milters[0].write(CONTINUE)
        await connection.close()
        await assert_over(connection)


async def test_disconnecting_says_no_goodbye() -> None:
    async with listening(milter()) as where:
        connection = await connect(where.address)
        connection.disconnect()
        connection.disconnect()
        await assert_over(connection)
        await where.until_ended()
    assert where.milters[0].letters == "O"


@pytest.mark.parametrize(
    ("error", "goodbye"), [(ValueError, "Q"), (KeyError, "Q"), (asyncio.CancelledError, "")]
)
async def test_an_exception_in_the_body_of_the_context(
    error: type[BaseException], goodbye: str
) -> None:
    opened: list[MilterConnection] = []

    async def fail(address: str) -> None:
        async with connect(address) as connection:
            opened.append(connection)
            raise error

    async with listening(milter()) as where:
        with pytest.raises(error):
            await fail(where.address)
        await assert_over(opened[0])
        await where.until_ended()
    assert where.milters[0].letters == "O" + goodbye


# Milters that break the rules, and what is no milter


@pytest.mark.parametrize(
    ("letter", "data", "rule"),
    [
        ("M", packet(b"c", b"\0"), "Continue: a reply without payload has one"),
        ("M", packet(b"h", b"X\0v\0"), "add_header is no reply to mail"),
        ("M", CONTINUE * 2, "a reply where none is due"),
        ("E", b"\0\1\0\1b", "a packet announces 65536 bytes of payload, above the limit of 65535"),
        ("E", packet(b"y", b"250 fine\0"), "the text of a reply code is no SMTP reply"),
    ],
)
async def test_a_broken_rule_ends_the_connection(letter: str, data: bytes, rule: str) -> None:
    async with listening(milter(letter.encode(), data)) as where:
        connection = await connect(where.address)
        with pytest.raises(RemoteProtocolError) as caught:
            await consult(connection)
        assert caught.value.rule.startswith(rule)
        await assert_over(connection)


@pytest.mark.parametrize(
    ("greeting", "protocol"),
    [(b"220 mx.example ESMTP\r\n", "SMTP"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP")],
)
async def test_another_protocol_on_the_port(greeting: bytes, protocol: str) -> None:
    async def behave(one: Milter) -> None:
        one.write(greeting)
        assert await one.reader.read() != b""

    async with listening(behave) as where:
        with pytest.raises(RemoteProtocolError) as caught:
            await connect(where.address)
        assert caught.value.rule == f"this is {protocol}, not the milter protocol"
        await where.until_ended()


async def test_a_milter_that_asks_for_too_much() -> None:
    asked = AGREED.replace(b"\0\0\x01\xff", b"\0\0\x0f\xff")
    async with listening(milter(O=asked)) as where:
        with pytest.raises(RemoteProtocolError, match="actions that were not offered"):
            await connect(where.address)
        await where.until_ended()


# Cancelled calls


@pytest.mark.parametrize("letter", ["O", "C", "M", "B", "E"])
async def test_a_cancelled_call_ends_the_connection(letter: str) -> None:
    arrived = asyncio.Event()

    async def behave(one: Milter) -> None:
        await one.until(letter.encode())
        arrived.set()
        assert await one.command() == b""

    opened: list[MilterConnection] = []

    async def call(address: str) -> None:
        opened.append(await connect(address))
        await consult(opened[0])

    before = asyncio.all_tasks()
    async with listening(behave) as where:
        task = asyncio.create_task(call(where.address))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await where.until_ended()
        for connection in opened:
            await assert_over(connection)
    assert where.milters[0].letters[-1] == letter
    assert asyncio.all_tasks() == before


async def test_a_call_may_have_a_time_limit_of_its_own() -> None:
    async def behave(one: Milter) -> None:
        await one.until(b"E")
        assert await one.command() == b""

    async with listening(behave) as where:
        connection = await connect(where.address)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await consult(connection)
        await assert_over(connection)
        await where.until_ended()


async def test_an_answer_more_is_not_taken_for_the_next_one() -> None:
    said = asyncio.Event()

    async def behave(one: Milter) -> None:
        await one.until(b"E")
        one.write(packet(b"c"))
        await asyncio.sleep(SOON_S / 10)
        one.write(packet(b"r"))
        said.set()
        await one.until(b"?")

    async with listening(behave) as where, connect(where.address) as connection:
        assert await consult(connection) is Status.ACCEPT
        await said.wait()
        await asyncio.sleep(SOON_S / 10)
        with pytest.raises(RemoteProtocolError, match="a reply where none is due: 'r'"):
            await consult(connection)
        assert connection.is_over


class _SlowWire:
    """A connection that agrees, and then never closes, or fails to."""

    def __init__(self, closing: Callable[[], object]) -> None:
        self.is_aborted = False
        self._closing = closing
        self._answers = [AGREED]

    async def read(self) -> bytes:
        if not self._answers:
            await asyncio.Event().wait()
        return self._answers.pop()

    async def write(self, data: bytes) -> None:
        del data

    async def close(self) -> None:
        self._closing()
        await asyncio.Event().wait()

    def abort(self) -> None:
        self.is_aborted = True


async def test_closing_that_is_cancelled_still_closes() -> None:
    arrived = asyncio.Event()
    wire = _SlowWire(arrived.set)
    connection = MilterConnection(wire, Conversation(), timeouts=Timeouts(), name="a wire")
    await connection.negotiate()
    task = asyncio.create_task(connection.close())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wire.is_aborted
    await assert_over(connection)
