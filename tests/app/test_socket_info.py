"""The address of the SMTP client, in all the forms in which MTAs tell it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter import SocketInfo
from aiomilter.wire.commands import Connect


def connect(family: bytes, address: bytes | None, port: int = 0) -> SocketInfo:
    return SocketInfo.from_connect(Connect(b"host", family, port, address))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"0.0.0.0", "0.0.0.0"),
        (b"255.255.255.255", "255.255.255.255"),
        # Everything below is as C's inet_aton has it, and so libmilter.
        (b"127.1", "127.0.0.1"),
        (b"192.0.513", "192.0.2.1"),
        (b"3221225985", "192.0.2.1"),
        (b"0", "0.0.0.0"),
        (b"0xC0.0x0.0x2.0X1", "192.0.2.1"),
        (b"0300.0.02.01", "192.0.2.1"),
        (b"0xc0000201", "192.0.2.1"),
        (b"192.0.2.1 anything", "192.0.2.1"),
        (b"192.0.2.1\n", "192.0.2.1"),
    ],
)
def test_an_ipv4_address_is_read_as_inet_aton_reads_it(text: bytes, address: str) -> None:
    info = connect(b"4", text, 25)
    assert (info.family, info.ip, info.port) == ("inet", IPv4Address(address), 25)
    assert info.raw == text.decode()


@pytest.mark.parametrize(
    "text",
    [
        b"unknown",  # Postfix really sends it
        b"",
        b"999.1.1.1",
        b"1.2.3.4.5",
        b"1.2.3.256",
        b"256.1",
        b"1.16777216",
        b"4294967296",
        b"1.2.3.",
        b".1.2.3",
        b"1..2",
        b"08",
        b"0x",
        b"0X.1",
        b"-1",
        b"+1",
        b" 1.2.3.4",
        b"1.2.3.4x",
        "\uff11.2.3.4".encode(),
        b"\xff",
        b"2001:db8::1",
    ],
)
def test_what_is_no_ipv4_address_is_kept_as_unknown(text: bytes) -> None:
    info = connect(b"4", text, 25)
    assert (info.family, info.ip, info.path, info.port) == ("unknown", None, None, 25)
    assert info.raw.encode("utf-8", "surrogateescape") == text
    assert not info.is_in("0.0.0.0/0", "::/0")


@pytest.mark.parametrize("text", [b"9" * 5_000, b"1.2.3." + b"1" * 60_000, b"0x" + b"f" * 60_000])
def test_an_endless_number_is_no_address(text: bytes) -> None:
    assert connect(b"4", text).family == "unknown"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"2001:db8::1", "2001:db8::1"),
        (b"IPv6:2001:db8::1", "2001:db8::1"),
        (b"ipv6:::1", "::1"),
        (b"::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        (b"IPv6:::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_an_ipv6_address_may_have_its_prefix(text: bytes, address: str) -> None:
    info = connect(b"6", text, 25)
    assert (info.family, info.ip, info.port) == ("inet6", IPv6Address(address), 25)
    assert info.raw == text.decode()


@pytest.mark.parametrize("text", [b"fe80::1%eth0", b"192.0.2.1", b"IPv6:", b"", b":", b"1" * 9_999])
def test_what_is_no_ipv6_address_is_kept_as_unknown(text: bytes) -> None:
    info = connect(b"6", text)
    assert (info.family, info.ip, info.raw) == ("unknown", None, text.decode())
    assert not info.is_in("::/0")


def test_a_unix_socket_has_a_path() -> None:
    info = connect(b"L", b"/run/x.sock")
    assert (info.family, info.path, info.ip) == ("unix", "/run/x.sock", None)
    assert not info.is_in("0.0.0.0/0", "::/0")


def test_the_path_of_a_unix_socket_has_at_most_107_bytes() -> None:
    assert connect(b"L", b"x" * 107).path == "x" * 107
    info = connect(b"L", b"x" * 108)
    assert (info.family, info.path, info.raw) == ("unknown", None, "x" * 108)


def test_the_family_u_has_no_address() -> None:
    assert connect(b"U", None) == SocketInfo("unknown")


@pytest.mark.parametrize(
    ("networks", "is_in"),
    [
        ((), False),
        (("192.0.2.0/24",), True),
        (("192.0.2.1",), True),
        (("198.51.100.0/24", "192.0.2.0/24"), True),
        (("198.51.100.0/24",), False),
        (("::/0",), False),
    ],
)
def test_is_in_takes_networks_of_both_kinds(networks: tuple[str, ...], is_in: bool) -> None:
    assert connect(b"4", b"192.0.2.1").is_in(*networks) is is_in


def test_a_mapped_ipv4_address_is_in_networks_of_both_families() -> None:
    info = connect(b"6", b"::ffff:192.0.2.1")
    assert info.is_in("192.0.2.0/24")
    assert info.is_in("::ffff:0:0/96")
    assert not info.is_in("198.51.100.0/24")
    assert not connect(b"6", b"2001:db8::1").is_in("0.0.0.0/0")


@pytest.mark.parametrize("info", [SocketInfo("unknown"), connect(b"4", b"192.0.2.1")])
def test_a_bad_network_is_an_error_whoever_the_client_is(info: SocketInfo) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 network"):
        info.is_in("not a network")


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (connect(b"4", b"192.0.2.1", 25), "192.0.2.1:25"),
        (connect(b"4", b"192.0.2.1"), "192.0.2.1"),
        (connect(b"6", b"IPv6:2001:db8::1", 25), "[2001:db8::1]:25"),
        (connect(b"6", b"2001:db8::1"), "[2001:db8::1]"),
        (connect(b"L", b"/run/x"), "unix:/run/x"),
        (connect(b"4", b"unknown"), "unknown ('unknown')"),
        (connect(b"U", None), "unknown"),
    ],
)
def test_it_reads_well(info: SocketInfo, text: str) -> None:
    assert str(info) == text


@pytest.mark.parametrize("family", [b"4", b"6", b"L"])
def test_a_hostile_address_is_one_harmless_line(family: bytes) -> None:
    text = str(connect(family, "a\r\nb\x1b[31m\u202e\udcff".encode("utf-8", "surrogateescape")))
    assert text.isascii()
    assert text.isprintable()


@given(st.sampled_from([b"4", b"6", b"L"]), st.binary(max_size=60))
def test_no_address_raises(family: bytes, address: bytes) -> None:
    info = connect(family, address)
    assert info.raw.encode("utf-8", "surrogateescape") == address
    assert (info.ip is None) == (info.family in ("unix", "unknown"))
