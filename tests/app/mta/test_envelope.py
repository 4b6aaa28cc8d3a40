"""What SMTP says around a message."""

from __future__ import annotations

import pytest

from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.wire.commands import Connect


@pytest.mark.parametrize("address", ["a@b", "<a@b>"])
def test_an_address_stands_in_brackets(address: str) -> None:
    assert Path(address).address == "<a@b>"


def test_no_address_is_the_null_sender() -> None:
    assert Path("").address == Path("<>").address == "<>"


def test_a_path_goes_to_the_wire_as_arguments() -> None:
    path = Path("grüß\udce9@b", "SIZE=1", "RET=HDRS")
    assert path.to_wire() == [b"<gr\xc3\xbc\xc3\x9f\xe9@b>", b"SIZE=1", b"RET=HDRS"]
    assert str(Path("a@b", "SIZE=1")) == "<a@b> SIZE=1"


@pytest.mark.parametrize("texts", [("a\r\nb",), ("a\0",), ("a", "SIZE=1\nX"), ("a", "X\r")])
def test_what_could_end_a_line_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="of the envelope has no CR, LF or NUL: "):
        Path(*texts)


def test_an_envelope_takes_text_and_paths() -> None:
    envelope = Envelope("a@b", ["c@d", Path("<e@f>", "NOTIFY=NEVER")])
    assert envelope.sender == Path("<a@b>")
    assert envelope.recipients == (Path("<c@d>"), Path("<e@f>", "NOTIFY=NEVER"))
    assert envelope.recipient_addresses == ("<c@d>", "<e@f>")


@pytest.mark.parametrize("recipient", ["c@d", Path("c@d")])
def test_one_recipient_needs_no_list(recipient: str | Path) -> None:
    assert Envelope("a@b", recipient) == Envelope("a@b", ["<c@d>"])


def test_an_envelope_may_be_without_recipients() -> None:
    assert Envelope("<>", []).recipients == ()


@pytest.mark.parametrize(
    ("client", "command"),
    [
        (Client(), Connect(b"client.example.org", b"4", 25025, b"192.0.2.1")),
        (
            Client("six.example", "2001:db8::1", 25),
            Connect(b"six.example", b"6", 25, b"2001:db8::1"),
        ),
        (Client("localhost", "/run/x", 0), Connect(b"localhost", b"L", 0, b"/run/x")),
        (Client("localhost", None, 0), Connect(b"localhost", b"U", 0, None)),
        (Client("grün.example"), Connect(b"gr\xc3\xbcn.example", b"4", 25025, b"192.0.2.1")),
    ],
)
def test_a_client_is_told_of(client: Client, command: Connect) -> None:
    assert client.to_command() == command


def test_a_client_knows_its_family() -> None:
    assert Client(address="::1").is_ipv6
    assert not Client().is_ipv6
    assert not Client(address=None).is_ipv6
    assert not Client(address="/a:b").is_ipv6


def test_a_client_with_an_odd_address_is_refused() -> None:
    with pytest.raises(ValueError, match="is an IP address or the path of a unix socket, not 'b'"):
        Client(address="b")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_client_with_an_odd_port_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"the client's port is from 0 to 65535, not {port}"):
        Client(port=port)


@pytest.mark.parametrize("client", [{"hostname": "a\nb"}, {"helo": "a\0"}])
def test_a_client_with_an_odd_name_is_refused(client: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="a name of the client has no CR, LF or NUL"):
        Client(**client)  # type: ignore[arg-type]  # names only
