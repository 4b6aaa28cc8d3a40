"""``aiomilter trace``: what one end sends, the other gets, and everything is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import stat
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner

from aiomilter import EomActions, Milter, Server
from aiomilter.aio.address import parse_address
from aiomilter.cli.proxy import Proxy
from aiomilter.cli.record import Entry, RecordReader
from aiomilter.cli.trace import trace
from tests.mta import EOM, HELO, MAIL, OFFER, PATIENCE_S, QUIT, RCPT, Mta

pytestmark = pytest.mark.usefixtures("no_unhandled_errors")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Stamper(Milter):
    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Stamp", "\x1b[31mred\x07")


@dataclass
class Traced:
    """A proxy in this process: where it listens, and what it has told."""

    sock: socket.socket
    proxy: Proxy
    entries: list[Entry]

    def sent(self, end: str, connection: int = 1) -> bytes:
        return b"".join(
            entry.data
            for entry in self.entries
            if (entry.sender, entry.connection) == (end, connection)
        )

    def events(self, connection: int = 1) -> list[str]:
        return [
            f"{entry.event} {entry.sender}" if entry.sender else entry.event
            for entry in self.entries
            if entry.connection == connection
        ]

    async def until_closed(self, count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while [entry.event for entry in self.entries].count("close") < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@asynccontextmanager
async def proxied(address: str) -> AsyncIterator[Traced]:
    entries: list[Entry] = []
    proxy = Proxy(parse_address(address), entries.append)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    try:
        yield Traced(server.sockets[0], proxy, entries)
    finally:
        server.close()
        await proxy.stop()


@asynccontextmanager
async def before(handler: Handler) -> AsyncIterator[Traced]:
    """Put a proxy in front of a milter that is a function."""
    tasks: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await handler(reader, writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.get_running_loop().create_task(handle(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with proxied(f"inet:{port}@127.0.0.1") as traced:
            yield traced
            await asyncio.gather(*tasks)
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(10_000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_a_session_passes_and_is_told_packet_by_packet() -> None:
    async with (
        Server(Stamper, "inet:0") as server,
        proxied(f"inet:{server.sockets[0].getsockname()[1]}") as traced,
        Mta.connected(traced.sock) as mta,
    ):
        await mta.begin()
        mta.send(EOM)
        assert await mta.replies(2) == [b"hX-Stamp\0\x1b[31mred\x07\0", b"c"]
        mta.send(QUIT)
        assert await mta.rest() == b""
        await mta.hang_up()
        await traced.until_closed()
    packets = [(e.sender, e.data[4:5]) for e in traced.entries if e.event == "packet"]
    assert packets == [
        ("mta", b"O"),
        ("milter", b"O"),
        ("mta", b"E"),
        ("milter", b"h"),
        ("milter", b"c"),
        ("mta", b"Q"),
    ]
    assert traced.events()[0] == "open"
    assert traced.events()[-3:] == ["eof milter", "eof mta", "close"]
    assert (traced.proxy.counts.connections, traced.proxy.counts.packets) == (1, 6)
    times = [entry.t for entry in traced.entries]
    assert times == sorted(times)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
async def test_bytes_pass_in_whatever_pieces_they_come(size: int) -> None:
    stream = OFFER + HELO + MAIL + b"\0\0\0\0A" + RCPT + EOM + b"\0\0\x01"
    async with before(echo) as traced, Mta.connected(traced.sock) as mta:
        for at in range(0, len(stream), size):
            mta.send(stream[at : at + size])
            # Each piece is on its way before the next is sent.
            async with asyncio.timeout(PATIENCE_S):
                piece = stream[at : at + size]
                assert await mta.reader.readexactly(len(piece)) == piece
        mta.send_eof()
        assert await mta.rest() == b""
        await traced.until_closed()
    assert traced.sent("mta") == traced.sent("milter") == stream
    assert traced.events().count("packet mta") == 6
    assert traced.events().count("bytes mta") == 1


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\n\r\n", OFFER, b""])
async def test_a_stream_that_is_no_milter_protocol_passes_and_is_named_once(begin: bytes) -> None:
    noise = begin + b"\x16\x03\x01" + random.Random(5).randbytes(1_000_000)
    async with before(echo) as traced, Mta.connected(traced.sock) as mta:
        mta.send(noise)
        mta.send_eof()
        assert await mta.rest() == noise
        await traced.until_closed()
    assert traced.sent("mta") == traced.sent("milter") == noise
    reasons = [e.detail for e in traced.entries if e.event == "bytes" and e.sender == "mta"]
    assert len([reason for reason in reasons if reason]) == 1
    assert "not the milter protocol" in reasons[0] or "above the limit" in reasons[0]


async def test_the_mtas_half_close_leaves_the_answers() -> None:
    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == OFFER
        writer.write(b"\0\0\0\x01c")
        writer.close()

    async with before(milter) as traced, Mta.connected(traced.sock) as mta:
        mta.send(OFFER)
        mta.send_eof()
        assert await mta.rest() == b"\0\0\0\x01c"
        await traced.until_closed()
    assert traced.events() == [
        "open",
        "packet mta",
        "eof mta",
        "packet milter",
        "eof milter",
        "close",
    ]


async def test_the_milters_half_close_leaves_the_commands() -> None:
    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        assert await reader.read() == OFFER
        writer.close()

    async with before(milter) as traced, Mta.connected(traced.sock) as mta:
        assert await mta.rest() == b""
        mta.send(OFFER)
        mta.send_eof()
        await traced.until_closed()
    assert traced.events() == ["open", "eof milter", "packet mta", "eof mta", "close"]


async def test_one_direction_does_not_wait_for_the_other() -> None:
    release = asyncio.Event()
    received = 0

    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        writer.write(b"\0\0\0\x01c")
        await release.wait()
        while data := await reader.read(2**20):
            received += len(data)
        writer.close()

    total = 50_000_000
    async with before(milter) as traced, Mta.connected(traced.sock) as mta:
        body = (b"\0\1\0\0B" + bytes(0xFFFF)) * (total // 65540)
        mta.send(body)
        # The milter reads nothing of it, and is heard all the same.
        assert await mta.reply() == b"c"
        held_back = len(traced.sent("mta"))
        release.set()
        mta.send_eof()
        assert await mta.rest() == b""
        await traced.until_closed()
    assert received == len(body)
    assert held_back < len(body)


async def test_a_reset_by_the_mta_reaches_the_milter() -> None:
    ended: list[str] = []

    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError:
            ended.append("reset")
        writer.close()

    async with before(milter) as traced, Mta.connected(traced.sock) as mta:
        mta.send(OFFER[:7])
        await traced_something(traced)
        mta.reset()
        await traced.until_closed()
    assert ended == ["reset"]
    assert sorted(traced.events()) == ["bytes mta", "close", "error mta", "open"]
    assert "the connection to the mta is lost" in traced.entries[-2].detail


async def traced_something(traced: Traced) -> None:
    """Wait until the milter has been connected to."""
    async with asyncio.timeout(PATIENCE_S):
        while not traced.entries:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    # The milter is dialled, and the bytes are passed on, within this.
    await asyncio.sleep(0.05)


async def test_a_reset_by_the_milter_reaches_the_mta() -> None:
    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with before(milter) as traced, Mta.connected(traced.sock) as mta:
        mta.send(OFFER)
        with pytest.raises(ConnectionResetError):
            await mta.rest()
        await traced.until_closed()
    assert "error milter" in traced.events()


async def test_without_a_milter_the_mta_is_hung_up_on(tmp_path: Path) -> None:
    async with proxied(f"unix:{tmp_path}/none") as traced, Mta.connected(traced.sock) as mta:
        assert await mta.rest() == b""
        await traced.until_closed()
    assert traced.events() == ["open", "error milter", "close"]
    assert "there is no such socket; is the milter running" in traced.entries[1].detail


async def test_connections_are_told_apart() -> None:
    async with before(echo) as traced, contextlib.AsyncExitStack() as stack:
        mtas = [await stack.enter_async_context(Mta.connected(traced.sock)) for _ in range(20)]
        for number, mta in enumerate(mtas):
            mta.send(HELO * number)
        for mta in reversed(mtas):
            mta.send_eof()
        for number, mta in enumerate(mtas):
            assert await mta.rest() == HELO * number
        await traced.until_closed(20)
    sizes = sorted(len(traced.sent("mta", number)) for number in range(1, 21))
    assert sizes == [len(HELO) * number for number in range(20)]


async def test_stopping_cuts_connections_off() -> None:
    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"\0\0\0"
        writer.close()

    async with before(milter) as traced, Mta.connected(traced.sock) as mta:
        mta.send(b"\0\0\0")
        await traced_something(traced)
        await traced.proxy.stop()
        assert await mta.rest() == b""
    assert traced.events() == ["open", "bytes mta", "close"]


# ---------------------------------------------------------------------------- the command


@asynccontextmanager
async def tracing(
    *arguments: str, stdout: int | IO[bytes] = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command as a program; it listens when this is entered."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiomilter.cli", "trace", *arguments),
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S * 4):
            line = await process.stderr.readline()
        assert line.startswith(b"listening on "), line
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def outputs(process: asyncio.subprocess.Process) -> tuple[str, str]:
    async with asyncio.timeout(PATIENCE_S * 2):
        out, err = await process.communicate()
    return (out or b"").decode(), err.decode()


async def talk(path: Path) -> None:
    async with Mta.connected_to_path(str(path)) as mta:
        await mta.begin()
        mta.send(EOM)
        assert len(await mta.replies(2)) == 2
        mta.send(QUIT)
        assert await mta.rest() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_prints_and_records_until_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    milter, listen, record = tmp_path / "m", tmp_path / "t", tmp_path / "r.jsonl"
    async with (
        Server(Stamper, f"unix:{milter}"),
        tracing(
            *("--listen", f"unix:{listen}", "--to", f"unix:{milter}"),
            *("--record", str(record), "--unix-mode", "600"),
        ) as process,
    ):
        assert stat.S_IMODE(listen.stat().st_mode) == 0o600
        await talk(listen)
        # One that is still open.
        async with Mta.connected_to_path(str(listen)) as mta:
            await mta.begin()
            process.send_signal(number)
            out, err = await outputs(process)
            assert await mta.rest() == b""
    assert process.returncode == 0, err
    assert not listen.exists()
    assert err == f"2 connections, 8 packets, recorded in {record}\n"
    lines = out.splitlines()
    assert all(line.isprintable() for line in lines)
    shown = [line.split(None, 2)[2] for line in lines if line.split()[1] == "1"]
    assert shown[3:6] == [
        "> eom",
        r"< add_header        X-Stamp: \x1b[31mred\x07",
        "< continue",
    ]
    with record.open("rb") as file:
        entries = list(RecordReader(file, "r", pytest.fail).entries())
    assert len(entries) == len(lines)
    assert [entry.data[4:5] for entry in entries if entry.connection == 1 and entry.data] == [
        *(b"O", b"O", b"E", b"h", b"c", b"Q")
    ]


async def test_a_record_survives_a_kill(tmp_path: Path) -> None:
    milter, listen, record = tmp_path / "m", tmp_path / "t", tmp_path / "r.jsonl"
    async with (
        Server(Stamper, f"unix:{milter}"),
        tracing(
            *("--listen", f"unix:{listen}", "--to", f"unix:{milter}"),
            *("--record", str(record), "--quiet"),
        ) as process,
        Mta.connected_to_path(str(listen)) as mta,
    ):
        await mta.begin()
        mta.send(EOM)
        await mta.replies(2)
        mta.send(HELO)
        async with asyncio.timeout(PATIENCE_S):
            while HELO.hex() not in record.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        process.kill()
        out, _ = await outputs(process)
    assert out == ""
    with record.open("rb") as file:
        entries = list(RecordReader(file, "r", pytest.fail).entries())
    assert b"".join(entry.data for entry in entries if entry.sender == "mta") == OFFER + EOM + HELO


async def test_a_dead_milter_is_one_line(tmp_path: Path) -> None:
    listen, milter = tmp_path / "t", tmp_path / "none"
    async with tracing("--listen", f"unix:{listen}", "--to", f"unix:{milter}") as process:
        async with Mta.connected_to_path(str(listen)) as mta:
            assert await mta.rest() == b""
        process.terminate()
        out, err = await outputs(process)
    assert process.returncode == 0
    complaint, counts = err.splitlines()
    assert complaint.startswith(f"aiomilter: connection 1: unix:{milter}: there is no such socket")
    assert counts == "1 connection, 0 packets"
    assert [line.split()[3] for line in out.splitlines()] == ["open", "close"]


async def test_it_ends_when_nobody_reads_its_lines_any_more(tmp_path: Path) -> None:
    listen = tmp_path / "t"
    async with tracing("--listen", f"unix:{listen}", "--to", f"unix:{tmp_path}/m") as process:
        assert process.stdout is not None
        process.stdout._transport.close()  # type: ignore[attr-defined]  # a reader cannot close
        async with Mta.connected_to_path(str(listen)) as mta:
            assert await mta.rest() == b""
        async with asyncio.timeout(PATIENCE_S * 2):
            assert await process.wait() == 141
    assert not listen.exists()


async def test_a_record_that_cannot_be_written_does_not_end_the_mail(tmp_path: Path) -> None:
    milter, listen, record = tmp_path / "m", tmp_path / "t", tmp_path / "pipe"
    os.mkfifo(record)
    reader = os.open(record, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with (
            Server(Stamper, f"unix:{milter}"),
            tracing(
                *("--listen", f"unix:{listen}", "--to", f"unix:{milter}"),
                *("--record", str(record), "--quiet"),
            ) as process,
        ):
            assert os.read(reader, 4096).startswith(b'{"format":"aiomilter-record"')
            os.close(reader)
            reader = -1
            await talk(listen)
            await talk(listen)
            process.terminate()
            _, err = await outputs(process)
    finally:
        if reader >= 0:
            os.close(reader)
    assert process.returncode == 2
    assert err.splitlines() == [
        "aiomilter: the record ends here: Broken pipe; the mail goes on",
        f"2 connections, 12 packets, recorded in {record}",
        f"aiomilter: the record {record} is not complete: Broken pipe",
    ]


async def test_output_that_cannot_be_written_does_not_end_the_mail(tmp_path: Path) -> None:
    milter, listen = tmp_path / "m", tmp_path / "t"
    with Path("/dev/full").open("wb") as full:
        async with (
            Server(Stamper, f"unix:{milter}"),
            tracing("--listen", f"unix:{listen}", "--to", f"unix:{milter}", stdout=full) as process,
        ):
            await talk(listen)
            await talk(listen)
            process.terminate()
            _, err = await outputs(process)
    assert process.returncode == 2
    assert err.splitlines() == [
        "aiomilter: the output ends here: No space left on device; the mail goes on",
        "2 connections, 12 packets",
        "aiomilter: the output is not complete: No space left on device",
    ]


async def test_a_terminal_that_takes_no_lines_holds_up_nothing(tmp_path: Path) -> None:
    milter, listen, record = tmp_path / "m", tmp_path / "t", tmp_path / "r.jsonl"
    terminal, output = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiomilter.cli", "trace", "--record", str(record)),
        *("--listen", f"unix:{listen}", "--to", f"unix:{milter}"),
        stdout=output,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(output)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S * 4):
            await process.stderr.readline()
        async with (
            Server(Stamper, f"unix:{milter}"),
            Mta.connected_to_path(str(listen)) as mta,
        ):
            await mta.begin()
            # More than a pipe takes.
            for _ in range(10):
                mta.send(EOM * 100)
                await mta.replies(200)
        process.terminate()
        async with asyncio.timeout(PATIENCE_S * 4):
            _, err = await process.communicate()
    finally:
        os.close(terminal)
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert b"lines were not shown: the terminal did not keep up" in err
    assert b"1 connection, 3002 packets" in err
    with record.open("rb") as file:
        assert len(list(RecordReader(file, "r", pytest.fail).entries())) >= 3004


@pytest.mark.parametrize(
    ("host", "to"),
    [
        ("127.0.0.1", "inet:{port}@localhost"),
        ("127.0.0.1", "localhost:{port}"),
        ("0.0.0.0", "inet:{port}"),
        ("0.0.0.0", "127.0.0.1:{port}"),
    ],
)
def test_another_name_of_the_address_to_listen_on_is_refused(host: str, to: str) -> None:
    with socket.create_server((host, 0)) as listening:
        listen = f"fd:{listening.fileno()}"
        to = to.format(port=listening.getsockname()[1])
        result = CliRunner().invoke(trace, ["--listen", listen, "--to", to])
    assert result.exit_code == 2
    assert result.stderr == (
        f"aiomilter: {to!r} is both the milter's address and the one to listen on\n"
    )


def test_an_address_in_use_comes_with_advice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"inet:{taken.getsockname()[1]}"
        result = CliRunner().invoke(trace, ["--listen", address, "--to", "inet:9"])
    assert result.exit_code == 2
    assert "stop what listens there, or take another address" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--listen", "x", "--to", "inet:1"], "'x' is no address; the forms are"),
        (["--listen", "inet:0", "--to", "y"], "'y' is no address; the forms are"),
        (["--listen", "inet:0", "--to", "fd:3"], "'fd:3' is a place to listen on"),
        (["--listen", "inet:0", "--to", "inet:0"], "'inet:0': port 0 is for listening"),
        (
            ["--listen", "inet:9@127.0.0.1", "--to", "inet:9"],
            "'inet:9' is both the milter's address and the one to listen on",
        ),
        (["--listen", "/none/x", "--to", "inet:9"], "cannot make the socket /none/x"),
        (
            ["--listen", "inet:0", "--to", "inet:9", "--unix-mode", "9"],
            "--unix-mode is a mode in octal, such as 660; not '9'",
        ),
        (
            ["--listen", "inet:0", "--to", "inet:9", "--record", "/none/r"],
            "cannot write the record /none/r: No such file or directory",
        ),
    ],
)
def test_an_error_is_one_sentence(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(trace, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"aiomilter: {problem}")
    assert result.stderr.count("\n") == 1
