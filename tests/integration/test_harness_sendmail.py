"""The private Sendmail that other tests rely on, mostly without a milter or with a trivial one."""

import asyncio
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiomilter import Config, EomActions, Milter, Server, Status
from aiomilter.errors import ConfigError
from aiomilter.testing.servers.postfix_config import REFUSED_RECIPIENT
from aiomilter.testing.servers.processes import ProcessGroup
from aiomilter.testing.servers.sendmail import ROOT_VARIABLE, Sendmail
from aiomilter.testing.servers.server import MailServer, find_log_line
from aiomilter.testing.servers.sink import Sink
from aiomilter.testing.servers.smtp import SmtpClient

pytestmark = pytest.mark.xdist_group("sendmail")

# Sendmail's processes run as root, as the tests do; it asks for no more than a safe path.
CONFIG = Config(unix_mode=0o666)
REASON = "look at this: 100% odd"


class Quarantine(Milter):
    """Has every message held."""

    async def on_eom(self, actions: EomActions) -> Status:
        actions.quarantine(REASON)
        return Status.ACCEPT


class Refuse(Milter):
    """Refuses every sender."""

    async def on_mail(self, sender: str, params: list[str]) -> Status:
        return Status.REJECT


def processes_of(directory: Path) -> list[str]:
    """Return the processes that work below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                where = (entry / "cwd").readlink()
            except OSError:
                continue
            # The kernel adds a word to the name of a folder that is gone.
            if str(where).startswith(str(directory)):
                found.append(entry.name)
    return found


@pytest.fixture(scope="module")
def sendmail(sink: Sink, sendmail_root: Path) -> Iterator[Sendmail]:
    """An instance that goes on without its milter when there is none."""
    with Sendmail(sink.port, settings={"F": ""}, root=sendmail_root) as sendmail:
        yield sendmail


async def test_a_message_arrives_byte_for_byte(sendmail: Sendmail, sink: Sink) -> None:
    long_line = b"x" * 3000
    content = (
        b"Subject: sendmail, plain\r\nX-Raw: \xff\xfe\r\nX-Folded: a\r\n\tb\r\n\r\n"
        b".dot\r\n..dots\r\n\xc3\xa9\r\nFrom here\r\n" + long_line + b"\r\n"
    )
    async with SmtpClient.connect(sendmail.smtp_port) as smtp:
        assert (await smtp.ehlo()).lines[0].startswith("mx.test.example ")
        reply = await smtp.message(content, recipients=["b@dst.example", "c@dst.example"])
    assert reply.code == 250
    # It delivers before it replies.
    assert sink.count("Subject: sendmail, plain") == 1
    delivery = await sink.wait_for("Subject: sendmail, plain")
    assert delivery.sender == "<a@src.example>"
    assert sorted(delivery.recipients) == ["<b@dst.example>", "<c@dst.example>"]
    # Its own field comes first, and nothing else is added or changed.
    assert delivery.header_lines[0].startswith(b"Received: from client.example")
    assert delivery.content == delivery.header_lines[0] + b"\r\n" + content


async def test_one_recipient_is_refused(sendmail: Sendmail) -> None:
    async with SmtpClient.connect(sendmail.smtp_port) as smtp:
        await smtp.ehlo()
        replies = await smtp.pipeline(
            "MAIL FROM:<a@src.example>",
            f"RCPT TO:<{REFUSED_RECIPIENT}>",
            f"RCPT TO:<x{REFUSED_RECIPIENT}>",
            "RCPT TO:<b@dst.example>",
        )
    assert [reply.code for reply in replies] == [250, 554, 250, 250]
    assert replies[1].text == "5.7.1 This recipient is refused"


async def test_it_is_a_mail_server_that_knows_its_version(sendmail: Sendmail) -> None:
    server: MailServer = sendmail
    assert re.fullmatch(r"8\.\d+\.\d+(\.\d+)?", server.version)
    async with SmtpClient.connect(server.smtp_port) as smtp:
        assert f"Sendmail {server.version}/" in smtp.banner.text


async def test_a_quarantined_message_is_held_with_its_reason_and_released(
    sendmail: Sendmail, sink: Sink
) -> None:
    recipients = ["c@dst.example", "b@dst.example"]
    async with Server(Quarantine, sendmail.milter_address, config=CONFIG):
        for name in ("first", "second"):
            async with SmtpClient.connect(sendmail.smtp_port) as smtp:
                await smtp.ehlo()
                reply = await smtp.message(
                    f"Subject: {name} to be held\r\n\r\n".encode(),
                    f"{name}@src.example",
                    recipients,
                )
                assert reply.code == 250
    # What is in quarantine is not in the way.
    await sendmail.settle()
    first, second = await sendmail.held()
    assert [first.sender, second.sender] == ["first@src.example", "second@src.example"]
    assert first.recipients == ("b@dst.example", "c@dst.example")
    assert first.reason == second.reason == REASON
    assert await find_log_line(sendmail, f"{first.queue_id}: milter=aiomilter, quarantine=")
    assert sink.count("to be held") == 0

    await sendmail.release(first.queue_id)
    assert sink.count("Subject: first to be held") == 1
    assert await sendmail.held() == [second]
    with pytest.raises(RuntimeError, match=f"no message {first.queue_id} in quarantine"):
        await sendmail.release(first.queue_id)
    await sendmail.release(second.queue_id)
    assert await sendmail.held() == []
    await sendmail.settle()


async def test_a_program_hands_in_a_message(sendmail: Sendmail, sink: Sink) -> None:
    await sendmail.submit(
        b"Subject: from a program\n\n.hello\n\xe9\n", "root@src.example", ["b@dst.example"]
    )
    delivery = await sink.wait_for("Subject: from a program")
    assert delivery.sender == "<root@src.example>"
    assert delivery.header_lines[1:] == [b"Subject: from a program"]
    assert delivery.body == b".hello\r\n\xe9\r\n"


async def test_a_program_is_told_of_a_refusal(sendmail: Sendmail) -> None:
    async with Server(Refuse, sendmail.milter_address, config=CONFIG):
        with pytest.raises(RuntimeError, match=r"refused b'MAIL FROM:<a@src.*: 55\d 5\.7\.1"):
            await sendmail.submit(b"Subject: x\n\n", "a@src.example", ["b@dst.example"])
    with pytest.raises(
        RuntimeError, match=r"refused b'RCPT TO:<refused@dst\.example>.*: 554 5\.7\.1"
    ):
        await sendmail.submit(b"Subject: x\n\n", "a@src.example", [REFUSED_RECIPIENT])
    await sendmail.settle()


async def test_a_message_that_stays_in_the_queue_is_named(sink: Sink, sendmail_root: Path) -> None:
    settings = {"F": "", "confDELIVERY_MODE": "queueonly"}
    with Sendmail(sink.port, settings=settings, root=sendmail_root) as sendmail:
        async with SmtpClient.connect(sendmail.smtp_port) as smtp:
            await smtp.ehlo()
            reply = await smtp.message(b"Subject: left in the queue\r\n\r\n")
        queue_id = reply.lines[0].split()[1]
        with pytest.raises(TimeoutError, match=f"still in the queue: {queue_id}$"):
            await sendmail.settle(0.1)
    assert sink.count("Subject: left in the queue") == 0


@pytest.mark.parametrize(
    ("flag", "codes"),
    [("T", [220, 250, 451]), ("R", [554]), ("4", [421]), ("", [220, 250, 250])],
    ids=["T", "R", "4", "none"],
)
async def test_the_flag_says_what_a_missing_milter_costs(
    sink: Sink, sendmail_root: Path, flag: str, codes: list[int]
) -> None:
    with Sendmail(sink.port, settings={"F": flag}, root=sendmail_root) as sendmail:
        async with SmtpClient.connect(sendmail.smtp_port) as smtp:
            replies = [smtp.banner]
            for command in ("EHLO client.example", "MAIL FROM:<a@src.example>"):
                if replies[-1].code < 400:
                    replies.append(await smtp.command(command))
    assert [reply.code for reply in replies] == codes


async def test_starting_opens_no_session(sink: Sink, sendmail_root: Path) -> None:
    with Sendmail(sink.port, root=sendmail_root) as sendmail:
        # The daemon has taken no connection before this one, which the log shows.
        async with SmtpClient.connect(sendmail.smtp_port):
            await find_log_line(sendmail, "connect from localhost")
        assert sendmail.log_text().count("connect from localhost") == 1


async def test_a_milter_is_found_on_a_port(sink: Sink, sendmail_root: Path) -> None:
    async with Server(Refuse, "inet:0@127.0.0.1") as server:
        address = f"inet:{server.sockets[0].getsockname()[1]}@127.0.0.1"
        with Sendmail(sink.port, address, root=sendmail_root) as sendmail:
            assert sendmail.milter_address == address
            async with SmtpClient.connect(sendmail.smtp_port) as smtp:
                await smtp.ehlo()
                assert (await smtp.command("MAIL FROM:<a@src.example>")).code == 550


async def test_starttls_is_offered_with_a_certificate(
    sink: Sink, sendmail_root: Path, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        f"-subj /CN=mx.test.example -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
        timeout=20,
    )
    settings = {"F": "", "confSERVER_CERT": str(certificate), "confSERVER_KEY": str(key)}
    with Sendmail(sink.port, settings=settings, root=sendmail_root) as sendmail:
        async with SmtpClient.connect(sendmail.smtp_port) as smtp:
            assert "STARTTLS" in (await smtp.ehlo()).lines
        version = await asyncio.to_thread(tls_version, sendmail.smtp_port, certificate)
    assert version.startswith("TLSv1.")


def tls_version(port: int, certificate: Path) -> str:
    """Return what TLS a session with STARTTLS has, the server's certificate being checked."""
    context = ssl.create_default_context(cafile=str(certificate))
    with socket.create_connection(("127.0.0.1", port), 10) as raw:
        for command in (b"", b"EHLO client.example\r\n", b"STARTTLS\r\n"):
            raw.sendall(command)
            # Each reply here comes in one piece.
            assert raw.recv(4096).startswith(b"2")
        with context.wrap_socket(raw, server_hostname="mx.test.example") as secure:
            return str(secure.version())


async def test_stop_ends_open_sessions_and_deliveries_and_leaves_nothing(
    sendmail_root: Path,
) -> None:
    # A sink that never says a word: what is delivered to it stays under way.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        sendmail = Sendmail(
            mute.getsockname()[1],
            settings={"F": "", "confDELIVERY_MODE": "background"},
            root=sendmail_root,
        )
        sendmail.start()
        group = ProcessGroup(int((sendmail.directory / "sendmail.pid").read_text().split()[0]))
        async with SmtpClient.connect(sendmail.smtp_port) as smtp:
            await smtp.ehlo()
            assert (await smtp.message(b"Subject: under way\r\n\r\n")).code == 250
            mute.settimeout(10)
            with (await asyncio.to_thread(mute.accept))[0]:
                # The daemon, the session, the delivery.
                assert len(processes_of(sendmail.directory)) == 3
                await asyncio.to_thread(sendmail.stop)
                assert processes_of(sendmail.directory) == []
    assert group.members() == []
    assert not sendmail.directory.exists()
    sendmail.stop()


def test_two_instances_live_side_by_side(sink: Sink, sendmail_root: Path) -> None:
    with (
        Sendmail(sink.port, root=sendmail_root) as first,
        Sendmail(sink.port, root=sendmail_root) as second,
    ):
        assert first.smtp_port != second.smtp_port
        assert first.milter_address == f"unix:{first.directory}/milter.sock"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"G": "T"}, "setting 'G': allowed are F .*, T .* and the defines"),
        ({"QUEUE_DIR": "/"}, "setting 'QUEUE_DIR': allowed are F"),
        ({"confNO_SUCH_NAME": "1"}, "Sendmail's m4 files do not use this name"),
        ({"confLOG_LEVEL": "1'"}, "no quotes"),
        ({"F": "X"}, "setting F='X': allowed are T"),
    ],
)
def test_settings_that_are_not_allowed_are_named(
    sendmail_root: Path, settings: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Sendmail(25, settings=settings, root=sendmail_root)


@pytest.mark.parametrize(
    ("address", "error", "complaint"),
    [
        ("somewhere", ConfigError, "is no address"),
        ("fd:3", ValueError, "unix and inet sockets only"),
        ("unix:/tmp/a,b", ValueError, "no quotes, commas"),
    ],
)
def test_an_address_that_sendmail_cannot_reach_is_named(
    sendmail_root: Path, address: str, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        Sendmail(25, address, root=sendmail_root)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"confDELIVERY_MODE": "x"}, "Sendmail did not start: .*Unknown delivery mode x"),
        ({"T": "C:soon"}, "Sendmail does not take these settings: .*Invalid time unit"),
    ],
)
def test_settings_that_sendmail_refuses_come_with_its_words(
    sendmail_root: Path, settings: dict[str, str], complaint: str
) -> None:
    sendmail = Sendmail(25, settings=settings, root=sendmail_root)
    with pytest.raises(RuntimeError, match=complaint), sendmail:
        pass
    assert processes_of(sendmail.directory) == []
    assert not sendmail.directory.exists()


def test_the_root_comes_from_the_environment(
    sendmail_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(RuntimeError, match=f"{tmp_path} does not hold Debian's packages"):
        Sendmail(25)
    monkeypatch.setenv(ROOT_VARIABLE, str(sendmail_root))
    sendmail = Sendmail(25)
    sendmail.stop()
    assert not sendmail.directory.exists()


def test_a_missing_sendmail_comes_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.setattr("aiomilter.testing.servers.sendmail._BINARIES", ())
    with pytest.raises(RuntimeError, match=r"missing\. .*apt-get download.*" + ROOT_VARIABLE):
        Sendmail(25)


def test_a_missing_tool_is_named(sendmail_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="m4 is missing: install the Debian package 'm4'"):
        Sendmail(25, root=sendmail_root)


def test_a_user_without_rights_is_told_so(
    sendmail_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="run as root"):
        Sendmail(25, root=sendmail_root)
