"""OpenDKIM, which signs mail from 192.0.2.0/24 and 127.0.0.0/8, and verifies all other mail."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

from tests.integration.peers.programs import find_program, folder, running

__all__ = ["DOMAIN", "SELECTOR", "running_opendkim"]

DOMAIN = "src.example"
SELECTOR = "peer"

_CONFIG = """\
Mode sv
Domain {domain}
Selector {selector}
KeyFile {folder}/{selector}.private
TestPublicKeys {folder}/keys
Socket local:{folder}/opendkim.sock
InternalHosts 192.0.2.0/24,127.0.0.0/8
AuthservID mx.test.example
Canonicalization relaxed/relaxed
OversignHeaders From
SignHeaders From,Subject,Date,Message-ID
RequireSafeKeys no
Background no
Syslog no
TemporaryDirectory {folder}
UMask 007
"""


@contextlib.contextmanager
def running_opendkim() -> Iterator[str]:
    """Run OpenDKIM with a key of its own, and without DNS; its address."""
    program = find_program("opendkim", "opendkim")
    make_key = find_program("opendkim-genkey", "opendkim-tools")
    with folder() as path:
        subprocess.run(
            [make_key, "-b", "1024", "-d", DOMAIN, "-s", SELECTOR, "-D", str(path)],
            check=True,
            capture_output=True,
        )
        # A zone file, the record in pieces.
        record = "".join(re.findall(r'"([^"]*)"', (path / f"{SELECTOR}.txt").read_text()))
        (path / "keys").write_text(f"{SELECTOR}._domainkey.{DOMAIN} {record}\n")
        config = _CONFIG.format(domain=DOMAIN, selector=SELECTOR, folder=path)
        (path / "opendkim.conf").write_text(config)
        socket = path / "opendkim.sock"
        with running([program, "-f", "-x", str(path / "opendkim.conf")], socket):
            yield f"unix:{socket}"
