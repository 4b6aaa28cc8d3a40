"""Greylisting with a database that blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from examples.blocking_lookup import KEEP_S, Greylist, Table
from tests.examples.peer import connect_from, packet, served, strings

MAIL = strings(b"M", "<ben@example.net>")
RCPT = strings(b"R", "<anna@example.org>")
LATER = (b"y", b"451 4.7.1 greylisted, try again in 300 seconds\0")
SOON = (b"y", b"451 4.7.1 greylisted, try again in 1 seconds\0")


class Clock:
    """A time of day that only tests move."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(tmp_path: Path, clock: Clock) -> Iterator[Table]:
    table = Table(str(tmp_path / "greylist.sqlite3"), clock=clock)
    yield table
    table.close()


async def test_second_attempt_passes_after_the_delay(table: Table, clock: Clock) -> None:
    async with served(partial(Greylist, table)) as peer:
        await peer.go_on(connect_from("192.0.2.7"), MAIL)
        assert await peer.ask(RCPT) == LATER
    clock.now_s += 299.5
    async with served(partial(Greylist, table)) as peer:
        await peer.go_on(connect_from("192.0.2.99"), MAIL)  # of the same network
        assert await peer.ask(RCPT) == SOON
        clock.now_s += 1
        await peer.go_on(RCPT)
        assert await peer.ask(strings(b"R", "<olga@example.org>")) == LATER


async def test_other_networks_wait_for_themselves(table: Table, clock: Clock) -> None:
    for address in ("192.0.2.7", "198.51.100.7"):
        async with served(partial(Greylist, table)) as peer:
            await peer.go_on(connect_from(address), MAIL)
            assert await peer.ask(RCPT) == LATER
        clock.now_s += 301


async def test_client_without_address_and_odd_bytes_are_looked_up(table: Table) -> None:
    async with served(partial(Greylist, table)) as peer:
        await peer.go_on(packet(b"C", b"localhost\0U"), packet(b"M", b"<\xff'\0"))
        assert await peer.ask(packet(b"R", b"\xff\0")) == LATER


async def test_client_who_has_logged_in_passes(table: Table) -> None:
    async with served(partial(Greylist, table)) as peer:
        await peer.go_on(connect_from("192.0.2.7"))
        peer.writer.write(packet(b"D", b"M{auth_authen}\0ben\0"))
        await peer.go_on(MAIL, RCPT)


async def test_who_has_not_come_for_long_is_forgotten(table: Table, clock: Clock) -> None:
    assert table.wait_s("n", "s", "r") == 300
    clock.now_s += KEEP_S
    assert table.wait_s("n", "s", "r") == 0
    clock.now_s += KEEP_S + 1
    assert table.wait_s("n", "s", "r") == 300


async def test_fault_of_the_database_is_a_temporary_failure(table: Table) -> None:
    table.close()
    async with served(partial(Greylist, table)) as peer:
        await peer.go_on(connect_from("192.0.2.7"), MAIL)
        assert await peer.ask(RCPT) == (b"t", b"")


def test_threads_share_the_table(table: Table) -> None:
    waits: list[float] = []
    threads = [
        threading.Thread(target=lambda: waits.append(table.wait_s("n", "s", "r"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waits == [300] * 8
