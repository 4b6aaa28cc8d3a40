"""The programs of the page about consulting a milter."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiomilter import Actions, EomActions, Milter, Negotiation, Reply, Server, Status
from aiomilter.mta import HeaderAdded
from examples.howto import consult, consult_in_steps


class Consulted(Milter):
    """What stands behind the address of the page."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        return Reply(550, "5.1.1", "unknown") if recipient == "<carol@example.org>" else None

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Seen", "yes")


async def test_what_has_become_of_a_message_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{tmp_path}/milter.sock"
    async with Server(Consulted, address):
        await consult.main(address)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["ACCEPT <carol@example.org>", "<bob@example.org>"]
    assert "X-Seen: yes" in lines


async def test_an_old_server_offers_less(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/milter.sock"
    offers: list[tuple[int, Actions]] = []

    class Negotiating(Consulted):
        async def on_negotiate(self, negotiation: Negotiation) -> None:
            offers.append((negotiation.version, negotiation.offered_actions))

    async with Server(Negotiating, address):
        outcome = await consult_in_steps.send_as_an_old_server(
            address, b"Subject: a test\r\n\r\nhello\r\n"
        )
    assert offers == [(2, Actions.ADD_HEADER)]
    assert outcome.status is Status.ACCEPT
    assert outcome.edits == (HeaderAdded("X-Seen", "yes"),)


async def test_a_recipient_is_asked_about_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{tmp_path}/milter.sock"
    async with Server(Consulted, address):
        assert await consult_in_steps.is_taken(address, "bob@example.org")
        assert not await consult_in_steps.is_taken(address, "carol@example.org")
        await consult_in_steps.main(address)
    assert capsys.readouterr().out.splitlines() == [
        "bob@example.org is taken",
        "carol@example.org is refused",
        "an old server: ACCEPT",
    ]
