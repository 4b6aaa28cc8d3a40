"""Ask rspamd about every message over HTTP, and do what it says.

    python examples/rspamd_scan.py [ADDRESS ...]    by default inet:9900, on the loopback address

The environment variable RSPAMD says where its normal worker listens, by default 127.0.0.1:11333.
(rspamd is a milter by itself, too: this is for those who want to decide with it, not to obey.)

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`rspamd', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/rspamd.sock`):

    run(partial(RspamdScan, RSPAMD), "unix:/var/spool/postfix/milter/rspamd.sock",
        config=Config(unix_group="postfix"))

A plain `def` handler runs in a thread, so the HTTP client of the standard library will do. An
answer that does not come, or cannot be understood, is a fault of the handler: the message is
deferred.
"""

import http.client
import json
import os
import sys
from functools import partial
from typing import Any, cast

from aiomilter import Message, Milter, Reply, Status, run

__all__ = ["RspamdError", "RspamdScan", "check"]

RSPAMD = os.environ.get("RSPAMD", "127.0.0.1:11333")

TIMEOUT_S = 60.0
"""For each step; rspamd gives up by itself before."""
_MOST_ANSWER_BYTES = 1 << 20


class RspamdError(Exception):
    """The message was not checked."""


def check(address: str, message: Message) -> dict[str, Any]:
    """Return what rspamd says about a message (``/checkv2``).

    Raises:
        RspamdError: It says nothing of use.
        OSError: It cannot be reached.
    """
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)
    try:
        size = sum(len(header.raw) for header in message.headers.original) + 2
        connection.putrequest("POST", "/checkv2", skip_accept_encoding=True)
        connection.putheader("Content-Length", str(size + message.body.size))
        for name, value in _envelope(message):
            # Whatever a client has put there must not become a header of this request.
            if value.isascii() and value.isprintable():
                connection.putheader(name, value)
        connection.endheaders()
        for piece in message.iter_bytes():
            connection.send(piece)
        response = connection.getresponse()
        text = response.read(_MOST_ANSWER_BYTES)
    except http.client.HTTPException as error:
        raise RspamdError(f"no HTTP from rspamd: {error!r}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise RspamdError(f"rspamd answers {response.status}: {text[:200]!a}")
    answer: object = json.loads(text)
    if not isinstance(answer, dict):
        raise RspamdError(f"rspamd answers {text[:200]!a}")
    return cast("dict[str, object]", answer)


def _envelope(message: Message) -> list[tuple[str, str]]:
    return [
        ("From", message.sender.mailbox),
        *(("Rcpt", recipient.mailbox) for recipient in message.recipients),
        *([("IP", str(message.client.ip))] if message.client.ip else []),
        ("Helo", message.helo_name or ""),
        ("Hostname", message.hostname or ""),
        ("Queue-Id", message.queue_id or ""),
    ]


class RspamdScan(Milter):
    """Does what rspamd says."""

    def __init__(self, address: str) -> None:
        self.address = address

    def on_message(self, message: Message) -> Status | Reply | None:
        answer = check(self.address, message)
        match answer.get("action"):
            case "reject":
                return Reply(554, "5.7.1", "This message looks like spam")
            case "greylist" | "soft reject":
                return Reply(451, "4.7.1", "Please try again later")
            case "rewrite subject" if isinstance(answer.get("subject"), str):
                message.headers.replace("Subject", answer["subject"])
            case "add header" | "rewrite subject":
                message.headers.remove("X-Spam")
                message.headers.add("X-Spam", "Yes")
            case "no action":
                pass
            case action:
                raise RspamdError(f"an action that nobody knows here: {action!a}")
        message.headers.remove("X-Spam-Score")  # anybody may have written that
        message.headers.add("X-Spam-Score", f"{float(answer['score']):.2f}")
        return None


if __name__ == "__main__":
    run(partial(RspamdScan, RSPAMD), *(sys.argv[1:] or ["inet:9900"]))
