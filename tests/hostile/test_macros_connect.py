"""Hostile macros and client addresses, A26 to A32."""

from __future__ import annotations

from typing import Any

import pytest

from aiomilter import SocketInfo
from aiomilter.session.filter import FilterSession
from aiomilter.session.macros import MacroStore
from tests.aio.serving import Recorder, recorder, session
from tests.hostile.support import measured_memory, one_warning, serves_a_message, warnings
from tests.mta import CONNECT, HELO, MAIL, RCPT, macros, packet


class Looking(Recorder):
    """Notes all macros that each stage of the envelope sees."""

    async def act(self, stage: str) -> Any:
        if stage in ("connect", "mail", "rcpt"):
            self.journal.note(f"{stage}: {dict(self.macros)}")


def seen(milter: type[Recorder]) -> list[str]:
    """Return what the handlers have seen."""
    return [entry for entry in milter.journal.entries if ": " in entry]


async def seen_at_mail(*strings: bytes, raw: bytes = b"") -> str:
    """Return the macros that MAIL sees behind one packet of them."""
    milter = recorder(Looking)
    async with session(milter) as mta:
        assert await mta.ask(raw or macros(b"M", *strings), MAIL) == b"c"
    (line,) = seen(milter)
    return line.removeprefix("mail: ")


async def test_a26_a_packet_without_macros_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    async with session(recorder()) as mta:
        assert await mta.ask(b"\0\0\0\2DC", CONNECT) == b"c"
        await serves_a_message(mta)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"Di\0", "{}"),
        (b"Di\0A\0dangling\0", "{'i': 'A'}"),
        (b"Di\0A\0j\0no NUL", "{'i': 'A'}"),
        (b"D\0value\0i\0A\0", "{'i': 'A'}"),
        (b"D\0", "{}"),
    ],
)
async def test_a27_pairs_are_kept_and_what_is_left_over_is_dropped(
    raw: bytes, expected: str
) -> None:
    assert await seen_at_mail(raw=packet(b"D", b"M" + raw[1:])) == expected


@pytest.mark.parametrize("stage", [b"Q", b"\0", b"\xff", b"D"])
async def test_a28_macros_for_no_stage_are_ignored(
    stage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert await seen_at_mail(raw=macros(stage, b"i", b"A")) == "{}"
    assert warnings(caplog) == []


async def test_a29_a_packet_of_very_many_macros_is_kept_as_it_came() -> None:
    pairs = [text for number in range(5_000) for text in (b"{m%d}" % number, b"v")]
    milter = recorder(Looking)
    async with session(milter) as mta:
        assert await mta.ask(macros(b"M", *pairs), MAIL) == b"c"
    (line,) = seen(milter)
    assert line.count("'{m") == 5_000


@pytest.mark.parametrize("strings", [(b"i", b"A"), (b"{name}", b"v" * 4_000)])
def test_a29_macros_that_come_again_and_again_take_the_place_of_the_old_ones(
    strings: tuple[bytes, ...],
) -> None:
    def feed(session: FilterSession, count: int) -> None:
        for _ in range(count):
            session.receive_data(one)
            assert session.next_event() is None

    one = macros(b"M", *strings)
    session = FilterSession()
    with measured_memory() as measure:
        feed(session, 1_000)
        memory = measure()
        feed(session, 100_000)
        assert memory.growth() < 2**13
        assert memory.peak() < 2**14
    assert session.macros.visible() == {strings[0]: strings[1]}


def test_a29_a_store_keeps_no_count_of_packets() -> None:
    store = MacroStore()
    for _ in range(1_000):
        store.store(b"Mi\0A\0", follows_macros=True)
    assert store._recent.bit_count() == 1


async def test_a30_who_has_logged_in_for_one_message_has_not_for_the_next() -> None:
    milter = recorder(Looking)
    async with session(milter) as mta:
        auth = macros(b"M", b"i", b"Q1", b"{auth_authen}", b"joe")
        assert await mta.ask(auth, MAIL) == b"c"
        mta.send(b"\0\0\0\1A")
        assert await mta.ask(b"\0\0\0\2DM", MAIL) == b"c"
    assert seen(milter) == ["mail: {'i': 'Q1', '{auth_authen}': 'joe'}", "mail: {}"]


async def test_a31_the_first_of_a_name_counts_in_a_stage_and_the_last_stage_of_all() -> None:
    milter = recorder(Looking)
    async with session(milter) as mta:
        both = macros(b"M", b"i", b"first", b"i", b"second", b"{i}", b"third")
        assert await mta.ask(both, MAIL) == b"c"
        assert await mta.ask(macros(b"R", b"{i}", b"later"), RCPT) == b"c"
    assert seen(milter) == ["mail: {'i': 'first'}", "rcpt: {'i': 'later'}"]


async def test_a31_both_spellings_of_a_short_name_find_it() -> None:
    class Asking(Recorder):
        async def act(self, stage: str) -> Any:
            if stage == "mail":
                names = ("i", "{i}", "{mail_addr}", "mail_addr")
                self.journal.note(f"mail: {[self.macros.get(name) for name in names]}")

    for name in (b"i", b"{i}"):
        milter = recorder(Asking)
        async with session(milter) as mta:
            assert await mta.ask(macros(b"M", name, b"A", b"{mail_addr}", b"a"), MAIL) == b"c"
        assert seen(milter)[0].startswith("mail: ['A', 'A', 'a', ")


@pytest.mark.parametrize(
    "payload",
    [b"", b"host", b"host\0", b"host\0X", b"host\0X\0\x19a\0", b"host\x004\0", b"host\x004\0\x19a"],
)
async def test_a32_a_client_that_is_cut_or_of_no_family_ends_the_connection(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        mta.send(packet(b"C", payload))
        assert await mta.rest() == b""
    assert "a connect packet" in one_warning(caplog)
    assert "connect" not in milter.journal.entries


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"host\x004\0\x19999.1.1.1\0", SocketInfo("unknown", port=25, raw="999.1.1.1")),
        (b"host\x004\0\0unknown\0", SocketInfo("unknown", raw="unknown")),
        (b"host\x006\0\x19fe80::1%eth0\0", SocketInfo("unknown", port=25, raw="fe80::1%eth0")),
        (b"host\0U", SocketInfo("unknown")),
        (b"host\0L\0\0/%b\0" % (b"p" * 299), SocketInfo("unknown", raw="/" + "p" * 299)),
        (b"host\0L\0\0/run/a\0", SocketInfo("unix", path="/run/a", raw="/run/a")),
    ],
)
async def test_a32_a_client_without_an_address_is_in_no_network(
    payload: bytes, expected: SocketInfo
) -> None:
    clients: list[SocketInfo] = []

    class Looking(Recorder):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            clients.append(client)

    async with session(recorder(Looking)) as mta:
        assert await mta.converse(packet(b"C", payload), HELO) == b"cc"
        await serves_a_message(mta)
    assert clients == [expected]
    assert not clients[0].is_in("0.0.0.0/0", "::/0")


async def test_a32_an_address_of_ipv6_may_have_its_prefix() -> None:
    clients: list[SocketInfo] = []

    class Looking(Recorder):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            clients.append(client)

    async with session(recorder(Looking)) as mta:
        assert await mta.ask(packet(b"C", b"host\x006\0\x19IPv6:2001:db8::1\0")) == b"c"
    assert str(clients[0]) == "[2001:db8::1]:25"
    assert clients[0].is_in("2001:db8::/32")
