"""``aiomilter check``: every exit code, every sentence, and what is shown."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Actions, EomActions, Milter, Reply, SocketInfo, Status, macros, no_reply
from aiomilter.cli.console import CommandError
from aiomilter.cli.question import client_of, envelope_of, generated, macros_of, offer_of
from aiomilter.mta import Client, Offer
from aiomilter.mta import Path as Address
from aiomilter.spec import ALL_ACTIONS, ALL_OPTIONS, Options
from tests.cli.milters import answering, called, foreign, served
from tests.packets import packet

AGREED = packet("O", b"\0\0\0\x06\0\0\x01\xff\0\0\0\0")
NOBODY = 65_534
ENOUGH_S = 45
COLOUR = re.compile(rb"\x1b\[[0-9;]*3[0-9]m")
MESSAGE = b"From: a@example.com\nSubject: caf\xc3\xa9 \xe9\nTo: b@example.com\n\nHello\n"


class Editor(Milter):
    """Makes every edit there is."""

    @no_reply
    async def on_header(self, name: str, value: str) -> None:
        pass

    @macros("i", "{auth_authen}")
    async def on_mail(self, sender: str, params: list[str]) -> None:
        pass

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        if recipient == "<nobody@example.org>":
            return Reply(550, "5.1.1", "no such user", "at all, 100%")
        return None

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Added", "\x1b[31mred")
        actions.insert_header(0, "X-Inserted", "first")
        actions.change_header("Subject", 1, "[tag]")
        actions.change_header("To", 1, None)
        actions.change_sender("<new@example.com>", "SIZE=1")
        actions.add_recipient("<more@example.org>", "NOTIFY=NEVER")
        actions.delete_recipient("<recipient@example.org>")
        actions.replace_body(b"another body\r\n")
        actions.quarantine("looks odd")
        await actions.progress()
        return Status.ACCEPT


class Deciding(Milter):
    """Decides as its class says, at the end of the message."""

    result: Any = Status.ACCEPT

    async def on_eom(self, actions: EomActions) -> Any:
        return self.result


def deciding(verdict: Any) -> type[Deciding]:
    return type("Deciding", (Deciding,), {"result": verdict})


# What is shown


def test_shows_negotiation_stages_verdict_edits_and_diff() -> None:
    with served(Editor) as address:
        result = called("check", address, "--rcpt", "recipient@example.org", "--rcpt", "x@y")
    shown = result.stdout
    assert result.exit_code == 0
    assert "built-in" in shown
    assert "version   6 (offered 6)" in shown
    assert "actions   all" in shown
    assert "macros    mail: i {auth_authen}" in shown
    assert re.search(
        r"^  connect +client.example.org \[192.0.2.1\]:25025 +not sent: not wanted$",
        shown,
        re.MULTILINE,
    )
    assert re.search(r"^  header +5 headers +no answer, as agreed$", shown, re.MULTILINE)
    assert re.search(r"^  eom +ACCEPT, 9 edits, 1 × PROGRESS$", shown, re.MULTILINE)
    assert "ACCEPT at eom: quarantined, so held and not delivered: looks odd" in shown
    for edit in (
        r"add header        X-Added: \x1b[31mred",
        "insert header     at 0: X-Inserted: first",
        "change header     no. 1 of Subject: [tag]",
        "delete header     no. 1 of To",
        "change sender     <new@example.com> SIZE=1",
        "add recipient     <more@example.org> NOTIFY=NEVER",
        "delete recipient  <recipient@example.org>",
        "replace body      14 bytes",
        "quarantine        looks odd",
    ):
        assert f"\n  {edit}\n" in shown
    for line in (
        "-MAIL FROM:<sender@example.com>",
        "+MAIL FROM:<new@example.com>",
        "-RCPT TO:<recipient@example.org>",
        "+RCPT TO:<more@example.org>",
        r"+X-Added: \x1b[31mred",
        "-To: Recipient <recipient@example.org>",
        "+another body",
    ):
        assert line in shown
    assert "as it is held" in shown
    assert "\x1b" not in shown


def test_stages_are_aligned() -> None:
    with served(Editor) as address:
        lines = called("check", address).stdout.splitlines()
    stages = lines[lines.index("stages") + 1 : lines.index("verdict")]
    answers = ("not sent", "CONTINUE", "no answer", "ACCEPT")
    columns = {line.find(answer) for line in stages for answer in answers if answer in line}
    assert len(columns) == 1


def test_verbose_shows_every_header_and_piece_of_the_body() -> None:
    class Reader(Milter):
        async def on_header(self, name: str, value: str) -> None: ...

        async def on_body(self, chunk: bytes) -> None: ...

    message = b"X-Long: " + b"y" * 300 + b"\r\n" + MESSAGE + b"x" * 100_000
    with served(Reader) as address:
        folded = called("check", address, "-", stdin=message).stdout
        verbose = called("check", address, "-", "-v", stdin=message).stdout
    assert re.search(r"header +4 headers +CONTINUE", folded)
    assert re.search(r"body +2 pieces +CONTINUE", folded)
    assert re.search(r"Subject: café \\(xe9|udce9)", verbose)
    assert re.search(r"body +65,535 bytes +CONTINUE", verbose)
    assert "4 headers" not in verbose
    # A long header does not move the answers of all others out of sight.
    answers = [line.index("CONTINUE") for line in verbose.splitlines() if "bytes  " in line]
    assert max(answers) < 70


def test_quiet_prints_the_verdict_alone() -> None:
    with served(Deciding) as address:
        result = called("check", address, "--quiet")
    assert result.stdout == "ACCEPT at eom\n"


def test_an_unchanged_message_is_said_to_be_so() -> None:
    with served(Deciding) as address:
        result = called("check", address)
    assert result.stdout.endswith("as it is delivered\n  unchanged\n")


def test_body_left_out_after_skip() -> None:
    class Skipping(Milter):
        async def on_negotiate(self, negotiation: Any) -> Status:
            return Status.ALL_OPTS

        async def on_body(self, chunk: bytes) -> Status:
            return Status.SKIP

    with served(Skipping) as address:
        result = called("check", address, "-", stdin=b"\n" + b"x" * 200_000)
    assert re.search(r"body +65,535 bytes +SKIP", result.stdout)


def test_repeat_tells_only_what_differs() -> None:
    class Second(Milter):
        count = 0

        async def on_eom(self, actions: EomActions) -> Status:
            self.count += 1
            return Status.REJECT if self.count == 3 else Status.ACCEPT

    with served(Second) as address:
        result = called("check", address, "--repeat", "3")
    assert result.exit_code == 1
    assert "message 2\n  ACCEPT at eom\n  no edits\n" in result.stdout
    assert "stages of message 3" in result.stdout
    assert "REJECT at eom" in result.stdout


def test_large_bodies_are_not_compared_line_by_line() -> None:
    class Replacing(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            actions.replace_body(b"y\r\n" * 5_000)

    with served(Replacing) as address:
        result = called("check", address, "-", stdin=b"Subject: a\n\n" + b"x\n" * 6_000)
    assert "The body is another one: 18,000 bytes, now 15,000 bytes." in result.stdout
    assert len(result.stdout.splitlines()) < 50


@pytest.mark.parametrize("mta", ["postfix", "sendmail"])
def test_delivers_as_either_mta(mta: str) -> None:
    with served(Editor) as address:
        result = called("check", address, "--mta", mta, "--json")
    document = json.loads(result.stdout)
    assert document["mta"] == mta
    (message,) = document["messages"]
    assert message["delivery"]["sender"].startswith("<new@example.com>")
    assert message["delivery"]["recipients"][0].startswith("<more@example.org>")
    assert "X-Inserted: first\r\n" in message["delivery"]["message"]


@pytest.mark.parametrize("option", ["--no-color", "NO_COLOR"])
def test_colours_can_be_left_out(option: str) -> None:
    command = [sys.executable, "-m", "aiomilter.cli", "check"]
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with served(Deciding) as address:
        coloured = subprocess.check_output([*command, address], env=environment)
        if option == "NO_COLOR":
            plain = subprocess.check_output([*command, address], env={**environment, option: "1"})
        else:
            plain = subprocess.check_output([*command, address, option], env=environment)
    assert COLOUR.search(coloured)
    assert not COLOUR.search(plain)


@pytest.mark.parametrize("option", ["-v", "--no-color"])
def test_a_reader_that_has_seen_enough_is_no_fault(option: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with served(Deciding) as address:
        command = [sys.executable, "-m", "aiomilter.cli", "check", address, option]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


# What is asked


def test_asks_as_the_options_say() -> None:
    seen: dict[str, Any] = {}

    class Noting(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            seen["connect"] = hostname, str(client)

        async def on_helo(self, hostname: str) -> None:
            seen["helo"] = hostname

        async def on_mail(self, sender: str, params: list[str]) -> None:
            seen["mail"] = sender, params, self.macros["{auth_authen}"]

        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            seen.setdefault("rcpt", []).append((recipient, params))

    with served(Noting) as address:
        result = called(
            "check", address, "--from", "a@b SIZE=5 BODY=8BITMIME", "--rcpt", "<c@d> NOTIFY=NEVER",
            "--rcpt", "e@f", "--client", "mx.example[2001:db8::1]:99", "--helo", "me",
            "--macro", "auth_authen=joe",
        )  # fmt: skip
    assert result.exit_code == 0
    assert seen["connect"][0] == "mx.example"
    assert "2001:db8::1" in seen["connect"][1]
    assert seen["helo"] == "me"
    assert seen["mail"] == ("<a@b>", ["SIZE=5", "BODY=8BITMIME"], "joe")
    assert seen["rcpt"] == [("<c@d>", ["NOTIFY=NEVER"]), ("<e@f>", [])]


def test_offers_as_the_options_say() -> None:
    with served(Deciding) as address:
        result = called(
            "check", address, "--version", "4", "--offer", "-ADD_HEADER,-SKIP", "--json"
        )
    document = json.loads(result.stdout)
    assert document["offer"]["version"] == 4
    assert "ADD_HEADER" not in document["offer"]["actions"]
    assert "SKIP" not in document["offer"]["options"]
    assert document["negotiation"]["version"] == 4


def test_message_from_stdin_and_from_a_file_over_a_unix_socket(tmp_path: Path) -> None:
    subjects: list[str] = []

    class Noting(Milter):
        async def on_header(self, name: str, value: str) -> None:
            subjects.append(f"{name}: {value}")

    message = tmp_path / "message.eml"
    message.write_bytes(MESSAGE)
    with served(Noting, f"unix:{tmp_path / 's'}") as address:
        assert called("check", address, "-", stdin=MESSAGE).exit_code == 0
        result = called("check", address, str(message))
    assert "built-in" not in result.stdout
    assert subjects[1] == "Subject: café \udce9"
    assert subjects[:3] == subjects[3:]


def test_output_writes_what_is_delivered(tmp_path: Path) -> None:
    file = tmp_path / "delivered.eml"
    with served(Editor) as address:
        called("check", address, "-", "--output", str(file), stdin=MESSAGE)
    delivered = file.read_bytes()
    assert delivered.startswith(b"X-Inserted: first\r\n")
    assert delivered.endswith(b"\r\n\r\nanother body\r\n")


def test_output_of_a_refused_message_is_not_written(tmp_path: Path) -> None:
    with served(deciding(Status.REJECT)) as address:
        result = called("check", address, "--output", str(tmp_path / "no.eml"))
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a.eml"
    with served(Deciding) as address:
        result = called("check", address, "--output", str(path))
    assert result.exit_code == 2
    assert result.stderr == f"aiomilter: cannot write {path}: No such file or directory\n"


# Verdicts


@pytest.mark.parametrize(
    ("verdict", "code", "sentence"),
    [
        (Status.ACCEPT, 0, "ACCEPT at eom"),
        (Status.CONTINUE, 0, "ACCEPT at eom"),
        (Status.REJECT, 1, "REJECT at eom: in the MTA's own words"),
        (Status.TEMPFAIL, 1, "TEMPFAIL at eom: in the MTA's own words"),
        (Status.DISCARD, 1, "DISCARD at eom: the client hears that all is well, and nothing is"),
        (
            Reply(451, "4.7.1", "wait 5%", "or more"),
            1,
            "TEMPFAIL at eom: 451 4.7.1 wait 5% / or more",
        ),
        (Reply(554, None, "no"), 1, "REJECT at eom: 554 no"),
    ],
)
def test_each_verdict_has_its_exit_code(verdict: Any, code: int, sentence: str) -> None:
    with served(deciding(verdict)) as address:
        result = called("check", address, "-q")
    assert result.exit_code == code
    assert result.stdout.startswith(sentence)


def test_some_recipients_refused_is_accepted_all_is_not() -> None:
    with served(Editor) as address:
        some = called("check", address, "--rcpt", "nobody@example.org", "--rcpt", "b@example.org")
        all_of_them = called("check", address, "--rcpt", "nobody@example.org", "-q")
    assert some.exit_code == 0
    assert "REJECT 550 5.1.1 no such user / at all, 100%" in some.stdout
    assert "1 of 2 recipients are refused" in some.stdout
    assert "-RCPT TO:<nobody@example.org>" in some.stdout
    assert all_of_them.exit_code == 1
    assert all_of_them.stdout == (
        "REJECT at rcpt: 550 5.1.1 no such user / at all, 100%; all recipients are refused\n"
    )


def test_control_characters_of_a_reply_are_visible() -> None:
    answers: dict[str, bytes | None] = {
        "O": AGREED,
        "E": packet("y", b"550 5.7.1 \x1b]0;x\x07 caf\xc3\xa9\0"),
    }
    with foreign(answering(answers)) as address:
        result = called("check", address)
    assert result.exit_code == 1
    assert r"REJECT 550 5.7.1 \x1b]0;x\x07 café" in result.stdout
    assert "\x1b" not in result.output


# JSON


def test_json_has_everything() -> None:
    with served(Editor) as address:
        result = called("check", address, "-", "--json", stdin=MESSAGE)
    document = json.loads(result.stdout)
    assert list(document) == [
        "format", "version", "address", "mta", "offer", "negotiation", "messages", "error",
        "exit_code",
    ]  # fmt: skip
    assert (document["format"], document["version"]) == ("aiomilter-check", 1)
    assert document["negotiation"]["macros"] == {"mail": ["i", "{auth_authen}"]}
    assert (document["error"], document["exit_code"]) == (None, 0)
    (message,) = document["messages"]
    assert (message["status"], message["stage"], message["quarantine"]) == (
        "ACCEPT", "eom", "looks odd",
    )  # fmt: skip
    assert [edit["edit"] for edit in message["edits"]] == [
        "add_header", "insert_header", "change_header", "change_header", "change_sender",
        "add_recipient", "delete_recipient", "replace_body", "quarantine",
    ]  # fmt: skip
    assert message["edits"][3] == {
        "edit": "change_header", "index": 1, "name": "To", "value": None,
    }  # fmt: skip
    assert message["delivery"]["message"].endswith("\r\n\r\nanother body\r\n")
    header = next(step for step in message["steps"] if "Subject" in step["argument"])
    assert header.pop("argument").startswith("Subject: café ")
    assert header == {
        "stage": "header", "sent": True, "answered": False,
        "status": "CONTINUE", "reply": None, "progress": 0,
    }  # fmt: skip


def test_json_of_a_refusal() -> None:
    with served(Editor) as address:
        result = called("check", address, "--json", "--rcpt", "nobody@example.org")
    (message,) = json.loads(result.stdout)["messages"]
    reply = {"code": 550, "enhanced_code": "5.1.1", "lines": ["no such user", "at all, 100%"]}
    assert result.exit_code == 1
    assert message["reply"] == reply
    assert message["recipients"] == [
        {"recipient": "<nobody@example.org>", "status": "REJECT", "reply": reply}
    ]
    assert message["delivery"] is None


def test_json_of_a_failure_says_what_is_wrong() -> None:
    with foreign(answering({"O": AGREED, "R": packet("h", b"X\0y\0")})) as address:
        result = called("check", address, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == document["exit_code"] == 2
    assert document["error"]["stage"] == "rcpt"
    assert document["error"]["argument"] == "<recipient@example.org>"
    assert "add_header is no reply to rcpt" in document["error"]["text"]
    assert [step["stage"] for step in document["error"]["steps"]] == ["connect", "helo", "mail"]
    assert document["messages"] == []


# No milter, or a broken one


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = called("check", f"inet:{port}")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"aiomilter: inet:{port}: nobody listens there; is the milter running, and on this port?\n"
    )


def test_no_such_socket(tmp_path: Path) -> None:
    result = called("check", f"unix:{tmp_path}/s")
    assert result.exit_code == 2
    assert "there is no such socket; is the milter running, with this path?" in result.stderr


@contextmanager
def unprivileged() -> Generator[None]:
    """Be a user who may not do everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "s"
    called("check", "--help")  # so that all modules are there
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        with unprivileged():
            result = called("check", str(path))
    assert result.exit_code == 2
    assert "no permission to connect" in result.stderr


def greeting(data: bytes) -> Any:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await reader.read()

    return talk


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (b"220 mx.example.org ESMTP\r\n", "SMTP"),
        (b"SSH-2.0-OpenSSH_9\r\n", "SSH"),
    ],
)
def test_names_another_protocol(data: bytes, name: str) -> None:
    with foreign(greeting(data)) as address:
        result = called("check", address)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"aiomilter: {address}: this is {name}, not the milter protocol: "
    )
    assert result.stderr.count("\n") == 1


def test_silence_is_probably_no_milter() -> None:
    with foreign(greeting(b"")) as address:
        result = called("check", address, "--timeout", "0.2")
    assert result.exit_code == 2
    assert result.stderr == (
        f"aiomilter: {address} takes the connection, but does not answer the offer within 0.2 s: "
        "it is probably no milter, but something that waits for other words, such as a web "
        "server, or it hangs\n"
    )


BREACHES: list[tuple[dict[str, bytes | None], str]] = [
    ({"O": None}, "takes the connection, and closes it instead of answering the offer"),
    ({"O": packet("O", b"\0\0\0\x09" + bytes(8))},
     "to offer: the milter answers with version 9 to an offer of 6"),
    ({"O": packet("c")}, "in its answer to offer: continue is no reply to negotiate"),
    ({"O": AGREED, "M": packet("?")}, "in its answer to mail: "),
    ({"O": AGREED, "M": None}, "has closed the connection instead of an answer to mail"),
    ({"O": AGREED, "T": b""}, "has not answered data within 0.5 s"),
    ({"O": AGREED, "E": packet("y", b"250 fine\0")}, "in its answer to eom: the text of a reply"),
    ({"O": AGREED, "E": packet("c") + packet("c")}, "in its answer to eom: a reply where none is"),
    ({"O": packet("O", b"\0\0\0\x06" + bytes(8)), "E": packet("h", b"X\0y\0") + packet("c")},
     "in its answer to eom: add_header needs the action ADD_HEADER, which was not agreed"),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "sentence"), BREACHES)
def test_a_breach_names_stage_and_rule(answers: dict[str, bytes | None], sentence: str) -> None:
    timeout = "0.5" if b"" in answers.values() else str(ENOUGH_S)
    with foreign(answering(answers)) as address:
        result = called("check", address, "--timeout", timeout)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"aiomilter: {address} ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_went_well_before_a_breach_is_shown() -> None:
    with foreign(answering({"O": AGREED, "R": packet("?")})) as address:
        result = called("check", address)
    assert re.search(
        r"^  mail .*CONTINUE\n  rcpt +<recipient@example.org> +no valid answer$",
        result.stdout,
        re.MULTILINE,
    )


def test_a_header_beyond_any_packet_is_said_to_be_so() -> None:
    class Reader(Milter):
        async def on_header(self, name: str, value: str) -> None: ...

    with served(Reader) as address:
        result = called("check", address, "-", stdin=b"Subject: " + b"x" * 70_000 + b"\n\n")
    assert result.exit_code == 2
    assert "header 1 of the message, 'Subject', has 70,00" in result.stderr
    assert "this is the message's fault" in result.stderr


# Wrong options


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("inet:1", "/no/such/file"), "cannot read the message /no/such/file: No such file"),
        (("inet:1", "/"), "cannot read the message /: Is a directory"),
        (("nonsense",), "'nonsense' is no address; the forms are"),
        (("inet:1", "--macro", "joe"), "--macro is NAME=VALUE, as in auth_authen=joe; not 'joe'"),
        (("inet:1", "--client", "a[b]"), "the client's address is an IP address"),
        (("inet:1", "--client", "a[1.2.3.4]:70000"), "the client's port is from 0 to 65535"),
        (("inet:1", "--client", "a:b"), "--client 'a:b' is no client; forms are"),
        (
            ("inet:1", "--offer", "SKIPP"),
            "there is no action or option 'SKIPP'; did you mean SKIP?",
        ),
        (("inet:1", "--offer", ""), "--offer is empty"),
        (("inet:1", "--from", "a\nb"), "of the envelope has no CR, LF or NUL"),
        (("inet:1", "--json", "-q"), "--json shows all there is"),
        (("inet:1", "-v", "-q"), "exclude each other"),
        (("inet:1", "--timeout", "0"), "0"),
    ],
)
def test_a_wrong_option_gets_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = called("check", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "client"),
    [
        (None, Client()),
        ("mx.example[192.0.2.7]:99", Client("mx.example", "192.0.2.7", 99, "mx.example")),
        ("mx.example[2001:db8::1]", Client("mx.example", "2001:db8::1", 25025, "mx.example")),
        ("mx[IPv6:::1]:1", Client("mx", "::1", 1, "mx")),
        ("192.0.2.7", Client("[192.0.2.7]", "192.0.2.7", 25025, "[192.0.2.7]")),
        ("2001:db8::1", Client("[2001:db8::1]", "2001:db8::1", 25025, "[2001:db8::1]")),
        ("[192.0.2.7]:5", Client("[192.0.2.7]", "192.0.2.7", 5, "[192.0.2.7]")),
        ("mx.example", Client("mx.example", "192.0.2.1", 25025, "mx.example")),
        ("unknown[unknown]", Client("unknown", None, 25025, "unknown")),
        ("localhost[/run/s]", Client("localhost", "/run/s", 25025, "localhost")),
    ],
)
def test_forms_of_the_client(text: str | None, client: Client) -> None:
    assert client_of(text, None) == client


@pytest.mark.parametrize(
    ("texts", "offer"),
    [
        ((), Offer()),
        (
            ("-SKIP,-quarantine",),
            Offer(6, Actions(ALL_ACTIONS & ~0x20), Options(ALL_OPTIONS & ~0x400)),
        ),
        (("-SKIP", "-NO_DATA"), Offer(6, Actions(ALL_ACTIONS), Options(ALL_OPTIONS & ~0x600))),
        (("ADD_HEADER, QUARANTINE",), Offer(6, Actions(0x21), Options(ALL_OPTIONS))),
        (("+DATA_SIZE_1M",), Offer(6, Actions(ALL_ACTIONS), Options(ALL_OPTIONS | 0x20000000))),
        (("actions=0x3f,options=0",), Offer(6, Actions(0x3F), Options(0))),
        (("actions=63,+CHANGE_SENDER",), Offer(6, Actions(0x7F), Options(ALL_OPTIONS))),
    ],
)
def test_forms_of_the_offer(texts: tuple[str, ...], offer: Offer) -> None:
    assert offer_of(None, texts) == offer


def test_forms_of_the_envelope_and_of_macros() -> None:
    envelope = envelope_of("", ["a@b  SIZE=1  X=2", '<"a b"@c> SIZE=3'])
    assert envelope.sender == Address("<>")
    assert envelope.recipients == (Address("a@b", "SIZE=1", "X=2"), Address('<"a b"@c>', "SIZE=3"))
    assert macros_of(["i=1", "{x}=a=b", "y="]) == {"i": "1", "{x}": "a=b", "y": ""}


def test_an_offer_of_more_than_32_bits_is_refused() -> None:
    with pytest.raises(CommandError, match="more than 32 bits"):
        offer_of(None, ["actions=9999999999"])


def test_generated_messages_have_the_size_asked_for() -> None:
    content = generated(1_000, 7)
    assert (len(content.body), len(content.headers)) == (1_000, 7)
    assert generated(0, 0).as_bytes() == b"\r\n"
