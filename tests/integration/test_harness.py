"""The Postfix, the sink and the SMTP client that the other tests rely on, without a milter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiomilter.testing.servers.postfix import Postfix
from aiomilter.testing.servers.postfix_config import REFUSED_RECIPIENT
from aiomilter.testing.servers.processes import ProcessGroup
from aiomilter.testing.servers.sink import Sink
from aiomilter.testing.servers.smtp import SmtpClient, dot_stuffed

pytestmark = pytest.mark.xdist_group("postfix")


async def test_a_message_arrives_byte_for_byte(postfix: Postfix, sink: Sink) -> None:
    content = b"Subject: plain\r\nX-Raw: \xff\xfe\r\n\r\n.dot\r\n..dots\r\n\xc3\xa9\r\n"
    async with SmtpClient.connect(postfix.port("plain")) as smtp:
        assert (await smtp.ehlo()).lines[0] == "mx.test.example"
        reply = await smtp.message(content, recipients=["b@dst.example", "c@dst.example"])
    assert reply.code == 250
    delivery = await sink.wait_for(reply.queue_id)
    assert delivery.sender == "<a@src.example>"
    assert delivery.recipients == ["<b@dst.example>", "<c@dst.example>"]
    assert delivery.queue_id == reply.queue_id
    assert delivery.header_lines[0].startswith(b"Received: from client.example")
    assert delivery.content.endswith(b"\r\n" + content)
    assert delivery.own_header_lines == [b"Subject: plain", b"X-Raw: \xff\xfe"]
    assert delivery.body == b".dot\r\n..dots\r\n\xc3\xa9\r\n"


async def test_pipelined_commands_get_their_replies_in_order(postfix: Postfix, sink: Sink) -> None:
    async with SmtpClient.connect(postfix.port("plain")) as smtp:
        await smtp.ehlo()
        replies = await smtp.pipeline(
            "MAIL FROM:<a@src.example>",
            f"RCPT TO:<{REFUSED_RECIPIENT}>",
            "RCPT TO:<b@dst.example>",
            "DATA",
        )
        assert [reply.code for reply in replies] == [250, 554, 250, 354]
        await smtp.send(dot_stuffed(b"Subject: pipelined\r\n\r\nbody"))
        reply = await smtp.reply()
    delivery = await sink.wait_for(reply.queue_id)
    assert delivery.recipients == ["<b@dst.example>"]
    assert delivery.body == b"body\r\n"


async def test_the_queue_is_empty_after_delivery_and_the_log_names_it(
    postfix: Postfix, sink: Sink
) -> None:
    async with SmtpClient.connect(postfix.port("plain")) as smtp:
        await smtp.ehlo()
        reply = await smtp.message(b"Subject: x\r\n\r\n")
    await sink.wait_for(reply.queue_id)
    assert "status=sent" in await postfix.log_line(f"{reply.queue_id}: to=<b@dst.example>")
    await postfix.log_line(f"{reply.queue_id}: removed")
    assert reply.queue_id not in [entry.queue_id for entry in await postfix.queue()]


async def test_a_missing_milter_costs_a_451(postfix: Postfix) -> None:
    async with SmtpClient.connect(postfix.port("unix")) as smtp:
        await smtp.ehlo()
        reply = await smtp.command("MAIL FROM:<a@src.example>")
    assert (reply.code, reply.text) == (451, "4.7.1 Service unavailable - try again later")


@pytest.fixture
def postfix_without_milters(sink: Sink) -> Iterator[Postfix]:
    """An instance that asks no milter about the mail of local users either."""
    with Postfix(sink.port, settings={"non_smtpd_milters": ""}) as postfix:
        postfix.start({"plain": {}})
        yield postfix


async def test_a_message_of_a_local_user_arrives(
    postfix_without_milters: Postfix, sink: Sink
) -> None:
    await postfix_without_milters.submit(
        b"Subject: a local user\n\nhello\n", "root@src.example", ["b@dst.example"]
    )
    delivery = await sink.wait_for("Subject: a local user")
    assert delivery.sender == "<root@src.example>"
    assert delivery.body == b"hello\r\n"


def test_two_instances_live_side_by_side_and_leave_nothing_behind(sink: Sink) -> None:
    with Postfix(sink.port) as first, Postfix(sink.port) as second:
        first.start({"plain": {}})
        second.start({"plain": {}, "other": {}})
        ports = {first.port("plain"), second.port("plain"), second.port("other")}
        assert len(ports) == 3
        pid = int((first.directory / "spool" / "pid" / "master.pid").read_text())
        group = ProcessGroup(pid)
        assert pid in group.members()
    assert not group.members()
    assert not first.directory.exists()
    assert not second.directory.exists()


def test_a_missing_postfix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomilter.testing.servers.postfix._POSTFIX", Path("/nowhere/postfix"))
    with pytest.raises(RuntimeError, match="/nowhere/postfix is missing: install the Debian"):
        Postfix(25)


def test_a_user_without_rights_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="run these tests as root"):
        Postfix(25)
