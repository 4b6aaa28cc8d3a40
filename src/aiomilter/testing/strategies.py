"""Hypothesis strategies: what an MTA may say to a milter.

Rules of this file:

- All that is drawn is legal: what a milter cannot cope with here it will meet in production.
- Examples are small, and shrink to the plainest mail there is; few are large, on purpose around
  the sizes of packets.
"""

from __future__ import annotations

from string import ascii_letters, digits

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.session.mta import Offer
from aiomilter.spec import ALL_ACTIONS, ALL_OPTIONS, COMMANDS, VERSION, Actions, Options
from aiomilter.testing.calls import Call

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "aiomilter.testing.strategies needs Hypothesis: pip install hypothesis"
    ) from error

__all__ = ["clients", "contents", "envelopes", "messages", "offers", "paths", "sessions"]

_MOST_RECIPIENTS = 4
_MOST_HEADERS = 6
_PACKET_BYTES = 65_535
_LEAVE_OUT = sum(int(row.no_option) for row in COMMANDS if row.no_option is not None)
_LOCAL = ascii_letters + digits + "!#$%&'*+-/=?^_`{|}~."
_LABEL = ascii_letters + digits

_domains = st.lists(st.text(_LABEL, min_size=1, max_size=8), min_size=1, max_size=3).map(".".join)
_mailboxes = st.one_of(
    st.sampled_from(["sender@example.com", "recipient@example.org", "postmaster"]),
    st.tuples(st.text(_LOCAL, min_size=1, max_size=12), _domains).map("@".join),
    st.tuples(st.text("ab \\t@", max_size=4), _domains).map(lambda parts: '"{}"@{}'.format(*parts)),
    st.tuples(st.text("äß日", min_size=1, max_size=4), _domains).map("@".join),
)
_sender_params = st.lists(
    st.sampled_from(["SIZE=1000", "BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=x+2B1"]),
    max_size=2,
    unique=True,
)
_recipient_params = st.lists(
    st.sampled_from(["NOTIFY=NEVER", "NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;a@example.org"]),
    max_size=2,
    unique=True,
)


def paths(*, null: bool = False) -> st.SearchStrategy[Path]:
    """Draw addresses of an envelope with their parameters.

    Args:
        null: Whether it is a sender, which may be ``<>``.
    """
    addresses = st.one_of(_mailboxes, st.just("<>")) if null else _mailboxes
    params = _sender_params if null else _recipient_params
    return st.tuples(addresses, params).map(lambda parts: Path(parts[0], *parts[1]))


def envelopes() -> st.SearchStrategy[Envelope]:
    """Draw envelopes: a sender, which may be the null one, and one recipient or some."""
    recipients = st.lists(paths(), min_size=1, max_size=_MOST_RECIPIENTS)
    return st.builds(Envelope, paths(null=True), recipients)


def clients() -> st.SearchStrategy[Client]:
    """Draw SMTP clients: IPv4, IPv6, a unix socket, an unknown address."""
    addresses = st.one_of(
        st.ip_addresses().map(str), st.sampled_from([None, "/run/client.sock", "192.0.2.1", "::1"])
    )
    names = st.one_of(_domains, st.sampled_from(["unknown", "[192.0.2.1]", "localhost"]))
    helos = st.one_of(names, st.sampled_from(["", "a b", "[IPv6:::1]", "ä.example"]))
    return st.builds(Client, names, addresses, st.integers(0, 65_535), helos)


_names = st.one_of(
    st.sampled_from(["Subject", "From", "To", "Received", "X-Spam", "subject", "DKIM-Signature"]),
    st.text(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1
    ).map(lambda name: name[:20]),
)
_eight_bit = st.binary(max_size=12).map(lambda data: data.decode("utf-8", "surrogateescape"))
_lines = st.one_of(st.text(ascii_letters + " ;=<>\t", max_size=30), _eight_bit).map(
    lambda line: line.translate(dict.fromkeys(map(ord, "\r\n\0")))
)
_values = st.one_of(
    _lines.map(lambda line: f" {line}"),
    _lines,
    st.lists(_lines, min_size=2, max_size=4).map(lambda lines: " " + "\n\t".join(lines)),
    st.just(""),
)


def _body_of_size(size: int) -> bytes:
    return (b"0123456789" * 7 + b"\r\n") * (size // 72) + b"x" * (size % 72)


_bodies = st.one_of(
    st.sampled_from([b"Hello!\r\n", b"", b".\r\n", b"..\r\n.a\r\n", b"\r\n", b"no end of line"]),
    st.lists(st.binary(max_size=40), max_size=5).map(b"\r\n".join),
    st.builds(_body_of_size, st.integers(_PACKET_BYTES - 2, _PACKET_BYTES + 2)),
    st.builds(_body_of_size, st.just(2 * _PACKET_BYTES + 1)),
)


def contents() -> st.SearchStrategy[Content]:
    """Draw messages: folded, empty, doubled and 8-bit headers; bodies of all kinds and sizes."""
    headers = st.lists(st.tuples(_names, _values), max_size=_MOST_HEADERS)
    doubled = headers.map(lambda found: found + found[:2])
    return st.builds(Content, st.one_of(headers, doubled), _bodies)


def messages() -> st.SearchStrategy[tuple[Envelope, Content]]:
    """Draw messages with their envelopes."""
    return st.tuples(envelopes(), contents())


def offers() -> st.SearchStrategy[Offer]:
    """Draw what MTAs offer: versions 2 to 6, some of the actions, some of the options.

    They can always leave out a stage, as all MTAs can: one that cannot is refused by a milter that
    does not handle that stage.
    """
    actions = st.one_of(st.just(ALL_ACTIONS), st.integers(0, ALL_ACTIONS)).map(
        lambda bits: Actions(bits & ALL_ACTIONS)
    )
    options = st.one_of(st.just(ALL_OPTIONS), st.integers(0, ALL_OPTIONS)).map(
        lambda bits: Options((bits | _LEAVE_OUT) & ALL_OPTIONS)
    )
    versions = st.one_of(st.just(VERSION), st.integers(2, VERSION))
    return st.builds(Offer, versions, actions, options)


@st.composite
def sessions(draw: st.DrawFn, most: int = 3) -> list[Call]:
    """Draw what an MTA may do: sessions with messages, stage by stage or at once.

    Messages may be given up, sessions may end in QUIT, with another one on the same connection, or
    without a word. Play them with `aiomilter.testing.MilterTester.play`.

    Args:
        draw: Given by Hypothesis.
        most: How many sessions there are at most.
    """
    parts = draw(st.lists(_one_session(), min_size=1, max_size=most))
    return [call for part in parts for call in part]


@st.composite
def _one_session(draw: st.DrawFn) -> list[Call]:
    client = draw(clients())
    calls = [Call("connect", (client,)), Call("helo", (client.helo,))]
    for _ in range(draw(st.integers(0, 3))):
        calls += draw(st.one_of(_whole_message(), _message()))
    end = draw(st.sampled_from(["quit", "new_session", "disconnect"]))
    return [*calls, Call(end)]


@st.composite
def _message(draw: st.DrawFn) -> list[Call]:
    """Draw a message stage by stage; cut off somewhere, at times."""
    envelope, content = draw(messages())
    calls = [Call("mail", (envelope.sender,))]
    calls += [Call("rcpt", (recipient,)) for recipient in envelope.recipients]
    calls += [Call("data")]
    calls += [Call("header", header) for header in content.headers]
    calls += [Call("end_of_headers")]
    at = draw(st.integers(0, len(content.body)))
    calls += [Call("body", (piece,)) for piece in (content.body[:at], content.body[at:])]
    calls += [Call("end_of_message")]
    if draw(st.booleans()):
        calls.insert(draw(st.integers(0, len(calls))), Call("unknown", ("XYZZY",)))
    if draw(st.booleans()):
        calls = [*calls[: draw(st.integers(1, len(calls)))], Call("abort")]
    return calls


def _whole_message() -> st.SearchStrategy[list[Call]]:
    return contents().map(lambda content: [Call("send", (content,))])
