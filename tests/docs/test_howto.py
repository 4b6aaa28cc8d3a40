"""The programs of the how-to pages do what the pages say."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import dkim  # type: ignore[import-untyped]  # it has no types
import pytest

from aiomilter.testing import Client, Mta
from aiomilter.testing import Path as MailPath
from aiomilter.testing.pytest_plugin import MakeMilterTester
from examples.howto import ask_service, dkim_sign, headers_on_top, refuse, unicode_addresses

MESSAGE = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: hello\r\n"
    b"Date: Fri, 2 Jan 2026 03:04:05 +0000\r\n\r\nHow are you?\r\n"
)
OUTSIDE = Client("mail.example.com", "198.51.100.7")


# Refuse


@pytest.mark.parametrize("address", ["203.0.113.77", "2001:db8:bad::25"])
def test_a_blocked_client_is_told_so(milter_tester: MakeMilterTester, address: str) -> None:
    tester = milter_tester(refuse.Refuse)
    result = tester.connect(Client("bad.example", address))
    result.assert_rejected(554, f"{address} is blocked here")


def test_a_sender_a_recipient_and_a_message_are_refused(milter_tester: MakeMilterTester) -> None:
    tester = milter_tester(refuse.Refuse)
    tester.send(MESSAGE, sender="x@example.invalid", client=OUTSIDE).assert_rejected(550)
    result = tester.send(MESSAGE, recipients=["Full@example.org", "ann@example.org"])
    result.assert_accepted()
    result.assert_recipient_refused("Full@example.org", 452)
    tester.send(b"Subject: hello\r\n\r\n").assert_rejected(550, "no Date header")


# Headers on top


@pytest.mark.parametrize("mta", [Mta.POSTFIX, Mta.SENDMAIL])
def test_a_header_is_put_on_top(milter_tester: MakeMilterTester, mta: Mta) -> None:
    tester = milter_tester(headers_on_top.OnTop, mta=mta)
    result = tester.send(MESSAGE, client=Client("mx.example.com", "192.0.2.3"))
    result.assert_header_inserted("X-Check", "mx.example.org; network=pass", index=1)
    result = tester.send(MESSAGE, client=OUTSIDE)
    result.assert_header_inserted("X-Check", "mx.example.org; network=none", index=1)


def test_forged_results_are_taken_away(milter_tester: MakeMilterTester) -> None:
    forged = b"Authentication-Results: mx.example.org; dkim=pass\r\n"
    theirs = b"Authentication-Results: mx.example.com; dkim=pass\r\n"
    result = milter_tester(headers_on_top.CleanAndOnTop).send(forged + theirs + MESSAGE)
    assert result.message.get_all("Authentication-Results") == [
        "mx.example.org; none",
        "mx.example.com; dkim=pass",
    ]


# DKIM


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dkim") / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", path, "1024"], check=True, capture_output=True)
    return path


def public_key(key: Path) -> bytes:
    command = ["openssl", "rsa", "-in", str(key), "-pubout", "-outform", "PEM"]
    pem = subprocess.run(command, check=True, capture_output=True).stdout
    return b"v=DKIM1; k=rsa; p=" + b"".join(pem.splitlines()[1:-1])


@pytest.mark.parametrize("mta", [Mta.POSTFIX, Mta.SENDMAIL])
def test_our_mail_is_signed_and_the_signature_holds(
    milter_tester: MakeMilterTester, key: Path, mta: Mta
) -> None:
    signer = partial(dkim_sign.DkimSigner, key.read_bytes(), "sel", "example.org")
    result = milter_tester(signer, mta=mta).send(MESSAGE, client=Client("desk", "10.1.2.3"))
    result.assert_accepted()
    record = public_key(key)
    names: list[bytes] = []

    def dns(name: bytes, timeout: int = 5) -> bytes:
        names.append(name)
        return record

    assert dkim.verify(result.message.as_bytes(), dnsfunc=dns)
    assert names == [b"sel._domainkey.example.org."]


def test_other_mail_is_not_signed(milter_tester: MakeMilterTester, key: Path) -> None:
    signer = partial(dkim_sign.DkimSigner, key.read_bytes(), "sel", "example.org")
    tester = milter_tester(signer)
    tester.send(MESSAGE, client=OUTSIDE).assert_no_edits()
    foreign = MESSAGE.replace(b"ann@example.org", b"ann@example.com")
    tester.send(foreign, client=Client("desk", "10.1.2.3")).assert_no_edits()
    tester.send(MESSAGE, client=OUTSIDE, macros={"{auth_authen}": "ann"}).assert_accepted()


def test_the_signer_says_how_to_call_it() -> None:
    program = Path(dkim_sign.__file__)
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "dkim_sign.py KEY.pem SELECTOR DOMAIN" in run.stderr


# A service


def answering(score: float) -> type[ask_service.AskService]:
    class Answering(ask_service.AskService):
        ask = staticmethod(lambda subject, sender, text: score)

    return Answering


def test_an_opinion_is_noted_or_heeded(milter_tester: MakeMilterTester) -> None:
    milter_tester(answering(0.25)).send(MESSAGE).assert_header_added("X-Opinion", "0.25")
    milter_tester(answering(0.99)).send(MESSAGE).assert_rejected(550, "looks like spam")


def test_a_service_that_fails_or_sleeps_costs_no_mail(
    milter_tester: MakeMilterTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(ask_service.AskService):
        @staticmethod
        def ask(subject: str, sender: str, text: bytes) -> float:
            raise ConnectionRefusedError

    milter_tester(Failing).send(MESSAGE).assert_header_added("X-Opinion", "none")

    class Sleeping(ask_service.AskService):
        @staticmethod
        def ask(subject: str, sender: str, text: bytes) -> float:
            time.sleep(0.2)
            return 0.0

    monkeypatch.setattr(ask_service, "DEADLINE_S", 0.01)
    milter_tester(Sleeping).send(MESSAGE).assert_header_added("X-Opinion", "none")


# Internationalised addresses


@pytest.mark.parametrize("domain", ["Bücher.example", "XN--bcher-kva.example", "example.org"])
def test_a_domain_is_one_however_it_is_written(
    milter_tester: MakeMilterTester, domain: str
) -> None:
    sender = MailPath("<jösé@bücher.example>", "SMTPUTF8")
    tester = milter_tester(unicode_addresses.Unicode)
    result = tester.send(MESSAGE, sender=sender, recipients=[f"<ann@{domain}>"])
    # In a header it is an encoded word, since not every mail program takes UTF-8 there.
    result.assert_header_added("X-Sender-Domain", "=?utf-8?q?b=C3=BCcher=2Eexample?=")


def test_another_domain_is_refused_in_words_that_people_read(
    milter_tester: MakeMilterTester,
) -> None:
    tester = milter_tester(unicode_addresses.Unicode)
    tester.rcpt("<ann@xn--mller-kva.example>").assert_rejected(550, "müller.example")
