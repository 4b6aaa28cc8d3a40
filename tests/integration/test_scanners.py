"""The examples that ask a scanner about whole messages, with real scanners."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from aiomilter.testing import Client, MilterTester
from aiomilter.testing.servers.ports import ReservedPort
from examples.clamd_scan import ClamdScan
from examples.rspamd_scan import RspamdScan
from tests.integration.peers.programs import folder, running
from tests.integration.peers.rspamd import running_rspamd

pytestmark = [pytest.mark.xdist_group("peers"), pytest.mark.timeout(120)]

MESSAGE = b"From: a@src.example\r\nSubject: hello\r\n\r\nHello\r\n"
CLIENT = Client("client.example", "198.51.100.1", helo="helo.example")


@pytest.fixture(scope="module")
def rspamd() -> Iterator[str]:
    with ReservedPort() as port, running_rspamd("http", port.number) as address:
        yield address


def test_rspamd_says_what_becomes_of_a_message(rspamd: str) -> None:
    with MilterTester(partial(RspamdScan, rspamd)) as tester:
        result = tester.send(MESSAGE, client=CLIENT)
        result.assert_accepted()
        result.assert_header_added("X-Spam-Score", "0.00")
        spam = tester.send(b"X-Spam-Test: yes\r\n" + MESSAGE, client=CLIENT)
        spam.assert_rejected(554, "This message looks like spam")
        spam.assert_no_edits()


SIGNATURE = b"ZZ-NOT-A-VIRUS-ZZ"


CLAMD = shutil.which("clamd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@pytest.fixture
def clamd() -> Iterator[str]:
    """A ClamAV that knows one virus."""
    with folder() as path:
        (path / "db").mkdir()
        (path / "db" / "test.ndb").write_text(f"Whole.Test:0:*:{SIGNATURE.hex()}\n")
        (path / "clamd.conf").write_text(
            f"DatabaseDirectory {path}/db\nLocalSocket {path}/clamd.sock\nForeground yes\n"
            f"User root\nStreamMaxLength 1M\n"
        )
        command = [str(CLAMD), "-c", str(path / "clamd.conf")]
        with running(command, path / "clamd.sock", patience_s=30):
            yield str(path / "clamd.sock")


# `make test-deps` does not install it, as its package brings a service along that downloads. The
# example's tests talk to a server of their own (tests/examples); this is for who has ClamAV.
if CLAMD is not None:

    def test_clamd_finds_what_it_knows_wherever_it_is(clamd: str, tmp_path: Path) -> None:
        large = b"0123456789abcd\r\n" * 20_000
        with MilterTester(partial(ClamdScan, clamd), raise_faults=False) as tester:
            tester.send(MESSAGE).assert_header_added("X-Virus-Scanned", "ClamAV")
            for body in (SIGNATURE, large + SIGNATURE + large):
                result = tester.send(b"X-A: b\r\n\r\n" + body + b"\r\n")
                result.assert_rejected(550, "This message has a virus: Whole.Test.UNOFFICIAL")
            assert not tester.faults
            # Above its limit it says so, or has closed before.
            tester.send(b"X-A: b\r\n\r\n" + large * 5).assert_tempfailed()
            assert len(tester.faults) == 1
