"""Messages with unusual text and size, through Postfix and a milter and on to the recipient."""

import pytest

from aiomilter import EomActions, Milter, leading_space
from tests.integration.journal import Journal
from tests.integration.rig import Rig

pytestmark = pytest.mark.xdist_group("postfix")


class Copier(Milter):
    """Notes every text it is given and writes it back into new headers."""

    journal: Journal

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.texts = [sender]
        self.journal.note("mail", sender, params)

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.texts.append(recipient)

    async def on_header(self, name: str, value: str) -> None:
        self.texts.append(value)

    async def on_body(self, chunk: bytes) -> None:
        self.journal.note("body", chunk)

    async def on_eom(self, actions: EomActions) -> None:
        self.journal.note("eom", self.texts)
        for text in self.texts:
            actions.add_header("X-Copy", text)


@pytest.fixture
def copier(journal: Journal) -> type[Copier]:
    """A copier that writes into the journal of this test."""

    class Bound(Copier):
        pass

    Bound.journal = journal
    return Bound


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_addresses_beyond_ascii(
    rig: Rig, journal: Journal, copier: type[Copier], listener: str
) -> None:
    async with rig.session(copier, listener) as smtp:
        assert (await smtp.command("MAIL FROM:<jörg@src.example> SMTPUTF8")).code == 250
        assert (await smtp.command("RCPT TO:<用户@dst.example>")).code == 250
        reply = await smtp.content("Subject: grüß\r\n\r\ngrößer\r\n".encode())
    delivery = await rig.delivery(reply)
    assert journal.facts("mail") == [("<jörg@src.example>", ["SMTPUTF8"])]
    assert journal.facts("eom") == [(["<jörg@src.example>", "<用户@dst.example>", "grüß"],)]
    assert delivery.sender == "<jörg@src.example>"
    assert "SMTPUTF8" in delivery.sender_params
    assert delivery.recipients == ["<用户@dst.example>"]
    copies = [
        f"X-Copy: {text}".encode() for text in ("<jörg@src.example>", "<用户@dst.example>", "grüß")
    ]
    assert delivery.own_header_lines[1:] == copies


async def test_recipients_beyond_ascii_are_added_and_removed(rig: Rig) -> None:
    class Redirector(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            actions.delete_recipient("<用户@dst.example>")
            actions.add_recipient("<übung@dst.example>")
            actions.change_sender("<größe@src.example>")

    async with rig.session(Redirector) as smtp:
        await smtp.command("MAIL FROM:<jörg@src.example> SMTPUTF8")
        await smtp.command("RCPT TO:<用户@dst.example>")
        reply = await smtp.content(b"Subject: x\r\n\r\n")
    delivery = await rig.delivery(reply)
    assert delivery.sender == "<größe@src.example>"
    assert delivery.recipients == ["<übung@dst.example>"]


async def test_bytes_that_are_not_utf8_come_back_unchanged(
    rig: Rig, journal: Journal, copier: type[Copier]
) -> None:
    body = bytes(range(128, 256)) + b"\r\n"
    async with rig.session(copier) as smtp:
        reply = await smtp.message(b"Subject: caf\xe9 \xff\xfe\r\n\r\n" + body)
    delivery = await rig.delivery(reply)
    assert journal.facts("eom")[0][0] == [
        "<a@src.example>",
        "<b@dst.example>",
        "caf\udce9 \udcff\udcfe",
    ]
    assert journal.facts("body") == [(body,)]
    assert delivery.own_header_lines[0] == b"Subject: caf\xe9 \xff\xfe"
    assert delivery.own_header_lines[-1] == b"X-Copy: caf\xe9 \xff\xfe"
    assert delivery.body == body


async def test_a_folded_header_survives_a_change(rig: Rig) -> None:
    class Folder(Milter):
        async def on_header(self, name: str, value: str) -> None:
            self.value = value

        async def on_eom(self, actions: EomActions) -> None:
            actions.change_header("X-Fold", 1, self.value + "\n\tmore")

    async with rig.session(Folder) as smtp:
        reply = await smtp.message(b"X-Fold: one\r\n  two\r\n\r\n")
    assert (await rig.delivery(reply)).own_header_lines == [b"X-Fold: one\r\n  two\r\n\tmore"]


async def test_leading_space_of_a_header(rig: Rig, journal: Journal) -> None:
    class Exact(Milter):
        @leading_space
        async def on_header(self, name: str, value: str) -> None:
            journal.note("header", name, value)

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-One", " one")
            actions.add_header("X-None", "none")

    async with rig.session(Exact) as smtp:
        reply = await smtp.message(b"A:none\r\nB: one\r\nC:  two\r\nD:\ttab\r\n\r\n")
    delivery = await rig.delivery(reply)
    assert journal.facts("header") == [("A", "none"), ("B", " one"), ("C", "  two"), ("D", "\ttab")]
    assert delivery.own_header_lines == [
        *(b"A:none", b"B: one", b"C:  two", b"D:\ttab"),
        *(b"X-One: one", b"X-None:none"),
    ]


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_a_body_of_two_megabytes_arrives_in_chunks(
    rig: Rig, journal: Journal, copier: type[Copier], listener: str
) -> None:
    body = b"".join(b"%06d %s\r\n" % (number, b"z" * 72) for number in range(26_000))
    assert len(body) > 2_000_000
    async with rig.session(copier, listener) as smtp:
        reply = await smtp.message(b"Subject: large\r\n\r\n" + body)
    chunks = [chunk for (chunk,) in journal.facts("body") if isinstance(chunk, bytes)]
    assert len(chunks) > 30
    assert max(map(len, chunks)) == 65_535
    assert b"".join(chunks) == body
    assert (await rig.delivery(reply)).body == body


async def test_an_empty_body(rig: Rig, journal: Journal, copier: type[Copier]) -> None:
    async with rig.session(copier) as smtp:
        reply = await smtp.message(b"Subject: empty\r\n\r\n")
    delivery = await rig.delivery(reply)
    assert journal.names == ["mail", "eom"]
    assert delivery.body == b""
    assert delivery.own_header_lines[0] == b"Subject: empty"


async def test_a_message_without_any_byte(rig: Rig, journal: Journal, copier: type[Copier]) -> None:
    async with rig.session(copier) as smtp:
        reply = await smtp.message(b"")
    delivery = await rig.delivery(reply)
    assert journal.names == ["mail", "eom"]
    assert delivery.own_header_lines == [b"X-Copy: <a@src.example>", b"X-Copy: <b@dst.example>"]


async def test_lines_with_dots_and_a_body_that_looks_like_a_header(
    rig: Rig, journal: Journal, copier: type[Copier]
) -> None:
    body = b".\r\n..\r\nX-Not: a header\r\n\r\n.end\r\n"
    async with rig.session(copier) as smtp:
        reply = await smtp.message(b"Subject: dots\r\n\r\n" + body)
    assert journal.facts("body") == [(body,)]
    assert (await rig.delivery(reply)).body == body
