"""``aiomilter check`` asks OpenDKIM, a milter in C on libmilter, to sign a message."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aiomilter.cli.commands import aiomilter
from aiomilter.testing.servers.ports import ReservedPort

PATIENCE_S = 20
MESSAGE = b"From: joe@example.com\nTo: b@example.org\nSubject: caf\xc3\xa9\n\nHello\n"


def program(name: str) -> str:
    """Return the path of a program that has to be there."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        pytest.fail(f"{name} is missing: on Debian, apt-get install opendkim openssl")
    return path


@pytest.fixture(scope="module")
def opendkim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An OpenDKIM that signs for example.com; the value is its address."""
    daemon, openssl = program("opendkim"), program("openssl")
    folder = tmp_path_factory.mktemp("opendkim")
    key, config, log = folder / "s.private", folder / "opendkim.conf", folder / "log"
    subprocess.run([openssl, "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    key.chmod(0o600)
    with ReservedPort() as port, log.open("wb") as output:
        settings = {
            "Domain": "example.com",
            "Selector": "s",
            "KeyFile": key,
            "RequireSafeKeys": "no",  # it does not like that others may write to /tmp
            "Socket": f"inet:{port.number}@127.0.0.1",
            "Mode": "s",
            "InternalHosts": "127.0.0.0/8,192.0.2.0/24",
            "Syslog": "no",
        }
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with subprocess.Popen(
            [daemon, "-f", "-x", config], stdout=output, stderr=output
        ) as process:
            try:
                until_it_listens(process, port.number, log)
                yield f"inet:{port.number}@127.0.0.1"
            finally:
                # It has nothing to save, and libmilter takes five seconds to heed anything else.
                process.kill()


def until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)  # nobody tells when it listens
        else:
            return
    pytest.fail(f"OpenDKIM does not listen: {log.read_text()}")


def check(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(aiomilter, ["check", address, "-", *arguments], input=MESSAGE)


@pytest.mark.parametrize("mta", ["postfix", "sendmail"])
def test_the_signature_stands_in_the_diff(opendkim: str, mta: str) -> None:
    result = check(opendkim, "--mta", mta, "--client", "mx.example.com[192.0.2.7]")
    assert result.exit_code == 0
    assert "ACCEPT at eom" in result.stdout
    assert "\n  insert header     at 0: DKIM-Signature: v=1; a=rsa-sha256;" in result.stdout
    assert "\n  +DKIM-Signature: v=1; a=rsa-sha256;" in result.stdout
    assert "d=example.com; s=s;" in result.stdout


def test_a_client_from_elsewhere_gets_no_signature(opendkim: str) -> None:
    result = check(opendkim, "--client", "mx.example.net[198.51.100.7]", "--json")
    (message,) = json.loads(result.stdout)["messages"]
    assert result.exit_code == 0
    assert message["edits"] == []


def test_the_signature_is_on_top_of_what_is_delivered(opendkim: str, tmp_path: Path) -> None:
    delivered = tmp_path / "signed.eml"
    result = check(opendkim, "--output", str(delivered), "--repeat", "2")
    assert result.exit_code == 0
    assert delivered.read_bytes().startswith(b"DKIM-Signature: v=1;")
    assert delivered.read_bytes().endswith(MESSAGE.replace(b"\n", b"\r\n"))


def test_bench_counts_what_it_signs(opendkim: str) -> None:
    result = CliRunner().invoke(aiomilter, ["bench", opendkim, "-n", "10", "-c", "2", "--json"])
    document = json.loads(result.stdout)
    assert (result.exit_code, document["verdicts"]) == (0, {"ACCEPT": 10})
