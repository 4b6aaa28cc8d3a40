"""What milters hear of the client, the server and the message."""

from __future__ import annotations

import asyncio
import base64
import importlib.resources
import re
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.proxy_protocol import ProxyData
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from aiomilter import EomActions, Milter, SocketInfo, macros
from aiomilter.contrib.aiosmtpd import MilterHandler, _tls_macros
from aiomilter.testing.servers.smtp import SmtpClient
from tests.aio.serving import serving
from tests.contrib.rig import HOSTNAME, MESSAGE, Inbox, Rig, address_of

TLS = ("{tls_version}", "{cipher}", "{cipher_bits}")
AUTH = ("{auth_type}", "{auth_authen}")


class Witness(Milter):
    """Keeps what it hears, by stage, in its class."""

    heard: dict[str, Any]

    def seen(self) -> dict[str, str]:
        """Return the macros by their names without braces."""
        return {name.strip("{}"): value for name, value in self.macros.items()}

    @macros("j", "v", "{daemon_name}", "{daemon_addr}", "{daemon_port}", "{client_addr}", *TLS)
    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.heard["connect"] = hostname, client, self.seen()

    @macros(*TLS)
    async def on_helo(self, hostname: str) -> None:
        self.heard["helo"] = hostname, self.seen()

    @macros("i", *AUTH)
    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.heard["mail"] = sender, params, self.seen()

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.heard["rcpt"] = recipient, params

    @macros("i")
    async def on_eom(self, actions: EomActions) -> None:
        self.heard["eom"] = self.seen()


def witness() -> type[Witness]:
    return type("Fresh", (Witness,), {"heard": {}})


async def test_client_and_server() -> None:
    milter = witness()
    async with Rig.session(milter) as (rig, smtp):
        hostname, client, seen = milter.heard["connect"]
        assert hostname == "[127.0.0.1]"
        assert str(client) == f"127.0.0.1:{smtp.local_port}"
        assert seen["j"] == seen["daemon_name"] == HOSTNAME
        assert seen["v"].startswith("Python SMTP ")
        assert (seen["daemon_addr"], seen["daemon_port"]) == ("127.0.0.1", str(rig.port))
        assert seen["client_addr"] == "127.0.0.1"
        assert milter.heard["helo"][0] == "client.example"
        assert not {"tls_version", "cipher"} & {*milter.heard["helo"][1]}


async def test_own_macros_come_first() -> None:
    milter = witness()
    async with Rig.session(milter, macros={"{daemon_name}": "submission"}):
        assert milter.heard["connect"][2]["daemon_name"] == "submission"


async def test_queue_id_is_that_of_the_envelope() -> None:
    milter = witness()
    async with Rig.session(milter) as (rig, smtp):
        ids: list[str] = []
        for _ in range(2):
            await smtp.message(MESSAGE)
            assert milter.heard["mail"][2]["i"] == milter.heard["eom"]["i"]
            ids.append(milter.heard["eom"]["i"])
        assert ids == [mail.queue_id for mail in rig.inbox.mails]
        assert len({*ids}) == 2


async def test_parameters_of_the_sender() -> None:
    milter = witness()
    async with Rig.session(milter) as (rig, smtp):
        await smtp.command("MAIL FROM:<\u0105@src.example> SIZE=100 BODY=8BITMIME SMTPUTF8")
        await smtp.command("RCPT TO:<\u0107@dst.example>")
        await smtp.content(MESSAGE)
        params = ["SIZE=100", "BODY=8BITMIME", "SMTPUTF8"]
        assert milter.heard["mail"][:2] == ("<\u0105@src.example>", params)
        assert milter.heard["rcpt"] == ("<\u0107@dst.example>", [])
        [mail] = rig.inbox.mails
        assert (mail.sender, mail.sender_options) == ("\u0105@src.example", params)
        assert mail.recipients == ["\u0107@dst.example"]


def plain(login: str, password: str) -> str:
    return base64.b64encode(f"\0{login}\0{password}".encode()).decode()


def callback(mechanism: str, login: bytes, password: bytes) -> bool:
    return password == b"secret"


def authenticator(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
) -> AuthResult:
    assert isinstance(data, LoginPassword)
    return AuthResult(success=True, auth_data=data.login.decode())


@pytest.mark.parametrize(
    "settings",
    [{"auth_callback": callback}, {"authenticator": authenticator}],
    ids=["callback", "authenticator"],
)
async def test_authenticated_client(settings: dict[str, Any]) -> None:
    milter = witness()
    async with Rig.session(milter, smtp={"auth_require_tls": False, **settings}) as (_, smtp):
        assert (await smtp.command(f"AUTH PLAIN {plain('joe', 'secret')}")).code == 235
        await smtp.command("MAIL FROM:<a@src.example>")
        seen = milter.heard["mail"][2]
        assert (seen["auth_type"], seen["auth_authen"]) == ("PLAIN", "joe")


async def test_client_that_fails_to_authenticate() -> None:
    milter = witness()
    settings = {"auth_require_tls": False, "auth_callback": callback}
    async with Rig.session(milter, smtp=settings) as (_, smtp):
        assert (await smtp.command(f"AUTH PLAIN {plain('joe', 'guess')}")).code == 535
        await smtp.command("MAIL FROM:<a@src.example>")
        assert not {"auth_type", "auth_authen"} & {*milter.heard["mail"][2]}


async def test_mechanism_of_the_handler() -> None:
    class Authenticating(Inbox):
        async def auth_TOKEN(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
            return AuthResult(success=True, auth_data=args[1])

        async def handle_AUTH(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope, args: list[str]
        ) -> str:
            session.authenticated = True
            session.auth_data = args[1]  # type: ignore[assignment]  # no type there
            return "235 hooked"

    milter = witness()
    settings = {"auth_require_tls": False}
    async with Rig.session(milter, inbox=Authenticating(), smtp=settings) as (_, smtp):
        assert any(re.match(r"AUTH .*TOKEN", line) for line in (await smtp.ehlo()).lines)
        assert (await smtp.command("AUTH TOKEN jane")).text == "hooked"
        await smtp.command("MAIL FROM:<a@src.example>")
        assert milter.heard["mail"][2]["auth_authen"] == "jane"


@pytest.fixture(scope="module")
def server_tls() -> ssl.SSLContext:
    """The certificate that aiosmtpd has for its own tests."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    folder = importlib.resources.files("aiosmtpd.tests.certs")
    with (
        importlib.resources.as_file(folder / "server.crt") as certificate,
        importlib.resources.as_file(folder / "server.key") as key,
    ):
        context.load_cert_chain(certificate, key)
    return context


async def test_client_that_starts_tls(server_tls: ssl.SSLContext) -> None:
    milter = witness()
    client_tls = ssl.create_default_context()
    client_tls.check_hostname, client_tls.verify_mode = False, ssl.CERT_NONE
    async with Rig.session(milter, smtp={"tls_context": server_tls}) as (rig, smtp):
        assert (await smtp.command("STARTTLS")).code == 220
        await smtp._writer.start_tls(client_tls)
        await smtp.ehlo("again.example")
        hostname, seen = milter.heard["helo"]
        assert hostname == "again.example"
        assert (seen["tls_version"], seen["cipher_bits"]) == ("TLSv1.3", "256")
        assert seen["cipher"].startswith("TLS_AES_256")
        assert (await smtp.message(MESSAGE)).code == 250
        assert rig.connections == 1


def test_certificate_of_the_client() -> None:
    class Tls:
        def version(self) -> str:
            return "TLSv1.2"

        def cipher(self) -> None:
            return None

        def getpeercert(self) -> dict[str, Any]:
            return {
                "subject": ((("countryName", "XX"),), (("commonName", "client.example"),)),
                "issuer": ((("organizationName", "no common name"),),),
            }

    assert _tls_macros(cast("ssl.SSLObject", Tls())) == {
        "{tls_version}": "TLSv1.2",
        "{cert_subject}": "client.example",
    }


async def test_client_behind_a_proxy() -> None:
    class Trusting(Inbox):
        async def handle_PROXY(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope, data: ProxyData
        ) -> bool:
            return True

    milter = witness()
    async with Rig.running(milter, inbox=Trusting(), smtp={"proxy_protocol_timeout": 5.0}) as rig:
        smtp = SmtpClient(*await asyncio.open_connection("127.0.0.1", rig.port))
        await smtp.send(b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 25\r\n")
        assert (await smtp.reply()).code == 220
        await smtp.ehlo()
        await smtp.quit()
    hostname, client, _ = milter.heard["connect"]
    assert hostname == "[2001:db8::1]"
    assert str(client) == "[2001:db8::1]:1234"


async def test_client_on_a_unix_socket(tmp_path: Path) -> None:
    milter = witness()
    loop = asyncio.get_running_loop()
    async with serving(milter) as server:
        handler = MilterHandler(Inbox(), address_of(server))
        listener = await loop.create_unix_server(
            lambda: SMTP(handler, hostname=HOSTNAME, loop=loop), str(tmp_path / "smtp.sock")
        )
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "smtp.sock"))
        writer.write(b"EHLO client.example\r\nQUIT\r\n")
        assert b"221 Bye" in await reader.read()
        writer.close()
        listener.close()
    hostname, client, _ = milter.heard["connect"]
    assert (hostname, client.family) == ("localhost", "unknown")
