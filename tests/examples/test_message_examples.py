"""The examples of whole messages, with the test kit; scanners are played."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Config
from aiomilter.testing import Client, MilterTester, Mta
from examples.clamd_scan import ClamdError, ClamdScan, scan
from examples.rspamd_scan import RspamdScan
from examples.whole_message import Tagger

MESSAGE = b"From: a@src.example\r\nSubject: hello\r\n\r\nHello\r\n"


# whole_message.py


@pytest.mark.parametrize("mta", Mta)
def test_tagger_changes_subject_envelope_and_text(mta: Mta) -> None:
    with MilterTester(Tagger, mta=mta) as tester:
        result = tester.send(MESSAGE)
        result.assert_header_changed("Subject", "[external] hello")
        result.assert_recipient_added("archive@example.org")
        result.assert_body_replaced(b"Hello\r\n-- \r\nThis message came from outside.\r\n")
        again = tester.send(MESSAGE.replace(b"hello", b"Re: [external] hello"))
        assert not [edit for edit in again.edits if "Subject" in str(edit)]


def test_tagger_adds_a_subject_where_there_is_none() -> None:
    with MilterTester(Tagger) as tester:
        tester.send(b"From: a@src.example\r\n\r\nHello\r\n").assert_header_added(
            "Subject", "[external]"
        )


# clamd_scan.py


@contextlib.contextmanager
def clamd(path: Path, answer: bytes, least_bytes: int = 0) -> Iterator[list[bytes]]:
    """Play clamd for one conversation; yield what it was given.

    Args:
        path: Where it listens.
        answer: What it says at the end, or as soon as it has had ``least_bytes``.
        least_bytes: After how many bytes it has enough; 0 for all.
    """
    given: list[bytes] = []

    def serve() -> None:
        with (
            contextlib.suppress(OSError),
            listener.accept()[0] as sock,
            sock.makefile("rb") as file,
        ):
            assert file.read(10) == b"zINSTREAM\0"
            content = b""
            while size := struct.unpack(">I", file.read(4))[0]:
                content += file.read(size)
                if least_bytes and len(content) >= least_bytes:
                    break
            given.append(content)
            sock.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(5)
        thread = threading.Thread(target=serve)
        thread.start()
        yield given
        thread.join(5)


def test_clamd_is_given_the_whole_message_and_lets_it_pass(tmp_path: Path) -> None:
    path = tmp_path / "clamd"
    with (
        clamd(path, b"stream: OK\0") as given,
        MilterTester(partial(ClamdScan, str(path))) as tester,
    ):
        result = tester.send(MESSAGE)
        result.assert_header_added("X-Virus-Scanned", "ClamAV")
    assert given == [MESSAGE]


def test_a_large_message_goes_to_clamd_from_its_file(tmp_path: Path) -> None:
    path, body = tmp_path / "clamd", b"0123456789abcd\r\n" * 100_000
    with (
        clamd(path, b"stream: OK\0") as given,
        MilterTester(
            partial(ClamdScan, str(path)), config=Config(spool_directory=str(tmp_path))
        ) as tester,
    ):
        tester.send(b"X-A: b\r\n\r\n" + body).assert_accepted()
    assert given == [b"X-A: b\r\n\r\n" + body]


def test_what_clamd_finds_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "clamd"
    with (
        clamd(path, b"stream: Eicar-Test 1\xff FOUND\0"),
        MilterTester(partial(ClamdScan, str(path))) as tester,
    ):
        result = tester.send(MESSAGE)
        result.assert_rejected(550, "This message has a virus: Eicar-Test?1?")
        result.assert_no_edits()


@pytest.mark.parametrize("answer", [b"INSTREAM size limit exceeded. ERROR\0", b"", b"stream: "])
def test_what_was_not_scanned_is_deferred(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "clamd"
    with (
        clamd(path, answer),
        MilterTester(partial(ClamdScan, str(path)), raise_faults=False) as tester,
    ):
        tester.send(MESSAGE).assert_tempfailed()
        (fault,) = tester.faults
        assert isinstance(fault.error, ClamdError)


def test_clamd_that_has_enough_before_the_end_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "clamd"
    with (
        clamd(path, b"INSTREAM size limit exceeded. ERROR\0", least_bytes=100_000),
        # Whether it is seen that it has closed depends on the moment.
        pytest.raises(ClamdError),
    ):
        scan(str(path), iter([b"", *[b"x" * 65_536] * 100]))


def test_without_clamd_mail_is_deferred(tmp_path: Path) -> None:
    for address in (f"{tmp_path}/none", "127.0.0.1:9"):
        with MilterTester(partial(ClamdScan, address), raise_faults=False) as tester:
            tester.send(MESSAGE).assert_tempfailed()
            (fault,) = tester.faults
            assert isinstance(fault.error, OSError)


# rspamd_scan.py


@contextlib.contextmanager
def rspamd(answer: dict[str, Any] | bytes, status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """Play rspamd; yield its address and what it was given."""
    given: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            given.append((self.path, self.headers, content))
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.01))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", given
        finally:
            server.shutdown()
            thread.join()


def test_rspamd_is_told_all_about_a_message() -> None:
    client = Client("client.example", "198.51.100.1", helo="helo.example")
    with (
        rspamd({"action": "no action", "score": 1.5}) as (address, given),
        MilterTester(partial(RspamdScan, address)) as tester,
    ):
        result = tester.send(
            b"X-Spam-Score: -99\r\n" + MESSAGE,
            sender="s@src.example",
            recipients=["b@dst.example", "c@dst.example"],
            client=client,
        )
        assert result.message is not None
        assert result.message.get_all("X-Spam-Score") == ["1.50"]
    ((path, headers, content),) = given
    assert (path, content) == ("/checkv2", b"X-Spam-Score: -99\r\n" + MESSAGE)
    assert headers.get_all("Rcpt") == ["b@dst.example", "c@dst.example"]
    told = {name: headers[name] for name in ("From", "IP", "Helo", "Hostname")}
    assert told == {
        "From": "s@src.example",
        "IP": "198.51.100.1",
        "Helo": "helo.example",
        "Hostname": "client.example",
    }


Check = Callable[[Any], object]


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        ({"action": "reject"}, lambda result: result.assert_rejected(554)),
        ({"action": "soft reject"}, lambda result: result.assert_tempfailed(451)),
        ({"action": "greylist"}, lambda result: result.assert_tempfailed(451)),
        (
            {"action": "add header", "score": 7},
            lambda result: result.assert_header_added("X-Spam", "Yes"),
        ),
        (
            {"action": "rewrite subject", "score": 7, "subject": "*** hello"},
            lambda result: result.assert_header_changed("Subject", "*** hello"),
        ),
        (
            {"action": "rewrite subject", "score": 7},
            lambda result: result.assert_header_added("X-Spam", "Yes"),
        ),
    ],
    ids=lambda value: value.get("action") if isinstance(value, dict) else "",
)
def test_what_rspamd_says_is_done(answer: dict[str, Any], check: Check) -> None:
    with rspamd(answer) as (address, _), MilterTester(partial(RspamdScan, address)) as tester:
        check(tester.send(MESSAGE))


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"action": "dance", "score": 1}, 200),
        ({"action": "no action"}, 200),
        ({"action": "no action", "score": "many"}, 200),
        (b"[]", 200),
        (b"{", 200),
        (b"oops", 500),
    ],
)
def test_an_answer_of_no_use_defers(answer: dict[str, Any] | bytes, status: int) -> None:
    with (
        rspamd(answer, status) as (address, _),
        MilterTester(partial(RspamdScan, address), raise_faults=False) as tester,
    ):
        result = tester.send(MESSAGE)
        result.assert_tempfailed()
        result.assert_no_edits()
        assert len(tester.faults) == 1


def test_nothing_that_a_client_says_becomes_a_header_of_the_request() -> None:
    client = Client("client.example", "198.51.100.1", helo="x\x0bPass: all")
    with (
        rspamd({"action": "no action", "score": 0}) as (address, given),
        MilterTester(partial(RspamdScan, address)) as tester,
    ):
        tester.send(MESSAGE, client=client).assert_accepted()
    ((_, headers, _),) = given
    assert headers["Pass"] is None
    assert headers["Helo"] is None
