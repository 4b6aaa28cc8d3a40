"""Addresses as one string: every form, and every error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter import ConfigError
from aiomilter.aio.address import Address, parse_address

GOOD: list[tuple[str, Address]] = [
    ("inet:8890@127.0.0.2", Address("inet", host="127.0.0.2", port=8890)),
    ("inet:8890@mta.example", Address("inet", host="mta.example", port=8890)),
    ("INET:8890@h", Address("inet", host="h", port=8890)),
    # Without a host libmilter listens on all interfaces.
    ("inet:8890", Address("inet", host="127.0.0.1", port=8890)),
    ("inet:8890@0.0.0.0", Address("inet", host="0.0.0.0", port=8890)),
    ("inet:0", Address("inet", host="127.0.0.1", port=0)),
    ("inet:65535", Address("inet", host="127.0.0.1", port=65535)),
    ("inet:smtp", Address("inet", host="127.0.0.1", port=25)),
    ("inet:127.0.0.1:8890", Address("inet", host="127.0.0.1", port=8890)),  # Postfix's order
    ("inet6:8890@::1", Address("inet6", host="::1", port=8890)),
    ("inet6:8890@[::1]", Address("inet6", host="::1", port=8890)),
    ("inet6:8890@::", Address("inet6", host="::", port=8890)),
    ("inet6:8890", Address("inet6", host="::1", port=8890)),
    ("inet6:[::1]:8890", Address("inet6", host="::1", port=8890)),
    ("localhost:8890", Address("any", host="localhost", port=8890)),
    ("127.0.0.1:8890", Address("any", host="127.0.0.1", port=8890)),
    ("[::1]:8890", Address("any", host="::1", port=8890)),
    ("unix:/run/x.sock", Address("unix", path="/run/x.sock")),
    ("unix:relative", Address("unix", path="relative")),
    ("local:/run/x.sock", Address("unix", path="/run/x.sock")),
    ("/run/x.sock", Address("unix", path="/run/x.sock")),
    ("/run/x:y@z", Address("unix", path="/run/x:y@z")),
    ("unix:" + "x" * 107, Address("unix", path="x" * 107)),
    ("fd:3", Address("fd", number=3)),
    ("systemd:", Address("systemd")),
    ("systemd:name", Address("systemd", name="name")),
]


@pytest.mark.parametrize(("text", "address"), GOOD, ids=[text[:30] for text, _ in GOOD])
def test_every_form_is_understood(text: str, address: Address) -> None:
    parsed = parse_address(text)
    assert str(parsed) == parsed.text == text
    fields = ("kind", "host", "port", "path", "number", "name")
    assert [getattr(parsed, name) for name in fields] == [getattr(address, name) for name in fields]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no address; the forms are inet:PORT@HOST"),
        ("nonsense", "is no address"),
        (":8890", "is no address"),
        ("8890", "is no address"),
        ("host:", "is no port"),
        ("host:nonsense", "'nonsense' is no port"),
        ("host:8891abc", "'8891abc' is no port"),
        ("host:-1", "is no port"),
        ("host:\uff18\uff10", "is no port"),
        ("inet:", "is no port"),
        ("inet:@host", "is no port"),
        ("inet:8891abc", "is no port"),
        ("inet:65536", "a port is at most 65535"),
        ("inet:65537@host", "a port is at most 65535"),
        ("inet:8890@", "the host is missing"),
        ("inet::8890", "the host is missing"),
        ("inet6:8890@[]", "the host is missing"),
        ("::1:8890", "put an IPv6 address in brackets"),
        ("[::1:8890", "put an IPv6 address in brackets"),
        ("unix:", "the path of the socket is missing"),
        ("local:", "the path of the socket is missing"),
        ("unix:a\0b", "a path has no NUL"),
        ("unix:" + "x" * 108, "at most 107 bytes, this one has 108"),
        ("/" + "ü" * 54, "this one has 109"),
        ("fd:", "a descriptor is a number"),
        ("fd:x", "a descriptor is a number"),
        ("fd:-1", "a descriptor is a number"),
        ("fd:\uff13", "a descriptor is a number"),
        ("9950", "did you mean inet:9950? the forms are"),
        (":9950", "did you mean inet:9950?"),
        ("localhost", "did you mean inet:PORT@localhost?"),
        ("./m.sock", "did you mean unix:./m.sock?"),
        ("inet:9950@::1", "write inet6:9950@::1"),
        ("inet:[::1]:9950", "write inet6:9950@::1"),
        ("tcp:8890", "write inet:PORT@HOST instead of tcp:"),
        ("http://host:80", "write inet:PORT@HOST instead"),
    ],
)
def test_every_error_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(repr(text))


@given(
    st.one_of(
        st.text(max_size=30),
        st.builds(
            "{}{}".format,
            st.sampled_from(["inet:", "inet6:", "unix:", "fd:", "systemd:", "/", "h:", "["]),
            st.text(max_size=130),
        ),
    )
)
def test_any_text_is_an_address_or_an_error_of_its_own(text: str) -> None:
    try:
        parsed = parse_address(text)
    except ConfigError:
        return
    assert 0 <= parsed.port <= 65535


@pytest.mark.parametrize("text", ["inet:" + "9" * 5_000, "host:a\0b", "unix:\ud800", "inet:\udcff"])
def test_odd_text_is_an_error_of_its_own(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)
