"""An aiosmtpd server that consults milters, as Postfix and Sendmail do.

::

    from aiosmtpd.controller import Controller
    from aiomilter.contrib.aiosmtpd import MilterHandler

    controller = Controller(MilterHandler(MyHandler(), "inet:8891@127.0.0.1"), port=8025)

Rules of this file:

- The wrapped handler is asked first, and a milter about what the handler takes: as in an MTA, whose
  own rules come ahead of its filters. The content goes the other way: the handler gets what the
  milters have made of it.
- How milters are consulted, and how long a verdict holds, is `aiomilter.contrib.smtp_session`.
- aiosmtpd has no hook at the beginning and at the end of a connection. Milters are connected to at
  the client's first EHLO or HELO, and left when the task ends that serves the client.
- Nor has it one at DATA: milters hear of it when the content is there, and a refusal of DATA is
  the answer to the content.
- What is delivered is what the milters have seen, also where nothing is changed.
"""

# ruff: noqa: N802  (aiosmtpd knows its hooks by these names)

from __future__ import annotations

import asyncio
import inspect
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast

from aiosmtpd.smtp import MISSING, SMTP, Envelope, Session

from aiomilter.aio.address import parse_address
from aiomilter.aio.mta import Timeouts
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery
from aiomilter.app.mta.envelope import Client, Path
from aiomilter.app.mta.envelope import Envelope as MtaEnvelope
from aiomilter.app.mta.kind import Mta
from aiomilter.contrib.smtp_session import (
    FAILURES,
    NO_MESSAGE,
    OnFailure,
    Settings,
    SmtpSession,
)
from aiomilter.errors import ConfigError

__all__ = ["FilteredEnvelope", "MilterHandler"]

_logger = logging.getLogger("aiomilter")

_BAD_ADDRESS = "553 5.1.3 Error: malformed address"
_BAD_NAME = "501 5.5.4 Error: malformed name"
_OLD_EHLO_PARAMETERS = 4
"""Without the list of responses; aiosmtpd then sends those by itself."""


class FilteredEnvelope(Envelope):
    """What `handle_DATA` of the wrapped handler gets, for type checkers.

    Attributes:
        queue_id: The id under which the milters know the message (the macro ``i``).
        quarantine: The reason for which a milter wants the message held, or None.
    """

    queue_id: str
    quarantine: str | None


class MilterHandler:
    """A handler for aiosmtpd that consults milters, around a handler of yours.

    Whatever hooks your handler has are called as before; `handle_DATA` it must have. Its envelope
    then is a `FilteredEnvelope`, with content, sender and recipients as the milters have changed
    them. It is not called for a message that a milter refuses or discards, nor for one that is
    left without recipients.

    A message that is to be quarantined goes to the hook ``handle_QUARANTINE(server, session,
    envelope, reason)`` if your handler has one, else to `handle_DATA`.
    """

    def __init__(
        self,
        handler: object,
        *milters: str,
        mta: Mta = Mta.POSTFIX,
        on_failure: OnFailure = "tempfail",
        timeouts: Timeouts | None = None,
        macros: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap a handler.

        Args:
            handler: Yours.
            milters: The addresses of the milters, for example ``inet:8891@127.0.0.1``.
            mta: As which MTA to behave.
            on_failure: What to do without a milter that cannot be reached, breaks the protocol or
                is too slow, for the rest of the SMTP session: refuse for now, do without it
                (and so let mail pass unfiltered), or refuse for good.
            timeouts: How long a milter may take; None for Postfix's times.
            macros: Values by name, for example ``{"{daemon_name}": "submission"}``; they come
                ahead of those that the server knows.

        Raises:
            ConfigError: An address is none, ``on_failure`` is none of the three, or the handler
                has no `handle_DATA` or an outdated `handle_EHLO`.
        """
        if on_failure not in FAILURES:
            raise ConfigError(f"on_failure is one of {', '.join(FAILURES)}, not {on_failure!r}")
        for address in milters:
            parse_address(address)
        _check_hooks(handler)
        self._handler = handler
        self._settings = Settings(
            milters, mta, FAILURES[on_failure], timeouts or Timeouts(), dict(macros or {})
        )
        self._sessions: dict[SMTP, SmtpSession] = {}

    def __getattr__(self, name: str) -> Any:
        """Have all that the wrapped handler has: its other hooks, its ways to authenticate."""
        return getattr(self._handler, name)

    def __dir__(self) -> list[str]:
        # aiosmtpd looks for hooks here.
        return sorted({*super().__dir__(), *dir(self._handler)})

    # The session

    async def handle_HELO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str
    ) -> str:
        """Tell the milters of the client and its name."""
        hook = self._hook("HELO")
        if hook is None:
            session.host_name = hostname
            response = f"250 {server.hostname}"
        else:
            response = await hook(server, session, envelope, hostname)
        return await self._greet(server, session, hostname) or response

    async def handle_EHLO(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        """Tell the milters of the client and its name."""
        hook = self._hook("EHLO")
        if hook is None:
            session.host_name = hostname
        else:
            responses = await hook(server, session, envelope, hostname, responses)
        refusal = await self._greet(server, session, hostname)
        return responses if refusal is None else [refusal]

    async def handle_AUTH(
        self, server: SMTP, session: Session, envelope: Envelope, args: list[str]
    ) -> Any:
        """Note how the client authenticates itself."""
        self._session(server).auth_type = args[0].upper()
        hook = self._hook("AUTH")
        return MISSING if hook is None else await hook(server, session, envelope, args)

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Tell the milters that nothing comes of the message."""
        await self._session(server).end_message()
        hook = self._hook("RSET")
        return "250 OK" if hook is None else await hook(server, session, envelope)

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Say goodbye to the milters."""
        await self._session(server).close()
        hook = self._hook("QUIT")
        return "221 Bye" if hook is None else await hook(server, session, envelope)

    # The message

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Tell the milters of a message and its sender."""
        smtp = self._session(server)
        path = _path(address, options)
        if path is None or smtp.refusal is not None:
            return self._answer(server, smtp.refusal or _BAD_ADDRESS)
        hook = self._hook("MAIL")
        if hook is None:
            envelope.mail_from = address
            envelope.mail_options.extend(options)
            response = "250 OK"
        else:
            response = await hook(server, session, envelope, address, options)
        if _is_refusal(response):
            return response
        refusal = await smtp.begin_message(path, _client(session), _macros(server, session, smtp))
        if refusal is None:
            return response
        envelope.mail_from, envelope.mail_options = None, []
        return self._answer(server, refusal)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Ask the milters about a recipient."""
        smtp = self._session(server)
        path = _path(address, options)
        if path is None or smtp.refusal is not None:
            return self._answer(server, smtp.refusal or _BAD_ADDRESS)
        before = list(envelope.rcpt_tos), list(envelope.rcpt_options)
        hook = self._hook("RCPT")
        if hook is None:
            envelope.rcpt_tos.append(address)
            envelope.rcpt_options.extend(options)
            response = "250 OK"
        else:
            response = await hook(server, session, envelope, address, options)
        if _is_refusal(response):
            return response
        refusal = await smtp.ask_about_recipient(path)
        if refusal is None:
            return response
        envelope.rcpt_tos, envelope.rcpt_options = before
        return self._answer(server, refusal)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Show the milters the content, and hand what they make of it to the wrapped handler."""
        smtp = self._session(server)
        if smtp.refusal is not None or smtp.message is None:
            return self._answer(server, smtp.refusal or NO_MESSAGE)
        queue_id = smtp.message.queue_id
        result = await smtp.filter(
            MtaEnvelope(
                Path(envelope.mail_from or "<>", *envelope.mail_options), envelope.rcpt_tos
            ),
            Content.parse(envelope.original_content or b""),
        )
        if isinstance(result, str):
            return self._answer(server, result)
        if result is None or not result.envelope.recipients:
            _logger.info("%s: nothing is delivered, as milters wish", queue_id)
            return "250 OK"
        filtered = cast("FilteredEnvelope", envelope)
        filtered.queue_id = queue_id
        filtered.quarantine = result.quarantine
        _apply(result, envelope)
        try:
            return await self._deliver(server, session, filtered)
        except Exception:
            # aiosmtpd keeps the envelope, and would take the next DATA for the same message.
            envelope.mail_from, envelope.rcpt_tos = None, []
            raise

    async def _deliver(self, server: SMTP, session: Session, envelope: FilteredEnvelope) -> str:
        hold = None if envelope.quarantine is None else self._hook("QUARANTINE")
        if hold is not None:
            held: str = await hold(server, session, envelope, envelope.quarantine)
            return held
        deliver = self._hook("DATA")
        assert deliver is not None
        response: str = await deliver(server, session, envelope)
        return response

    # Below

    def _hook(self, name: str) -> Callable[..., Awaitable[Any]] | None:
        return getattr(self._handler, f"handle_{name}", None)

    def _session(self, server: SMTP) -> SmtpSession:
        """Return the milters of the client that a server object serves."""
        found = self._sessions.get(server)
        if found is None:
            found = self._sessions[server] = SmtpSession(self._settings)
            # aiosmtpd serves a client in one task, which ends however the connection ends.
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _: self._sessions.pop(server).disconnect())
        return found

    async def _greet(self, server: SMTP, session: Session, hostname: str) -> str | None:
        if any(char in "\r\n\0" for char in hostname):
            return _BAD_NAME
        smtp = self._session(server)
        refusal = await smtp.greet(hostname, _client(session), _macros(server, session, smtp))
        return None if refusal is None else self._answer(server, refusal)

    def _answer(self, server: SMTP, refusal: str) -> str:
        """Return a refusal as aiosmtpd can send it; hang up after one of 421."""
        if refusal.startswith("421") and server.transport is not None:
            # aiosmtpd writes the answer as soon as the hook returns, ahead of this.
            asyncio.get_running_loop().call_soon(server.transport.close)
        charset = "utf-8" if server.enable_SMTPUTF8 else "ascii"
        return refusal.encode(charset, "replace").decode(charset)


def _apply(delivery: Delivery, envelope: Envelope) -> None:
    """Have aiosmtpd's envelope say what is to be delivered."""
    sender, recipients = delivery.envelope.sender, delivery.envelope.recipients
    content = delivery.content.as_bytes()
    envelope.original_content = content
    if isinstance(envelope.content, str):
        envelope.content = content.decode("utf-8", "surrogateescape")
    else:
        envelope.content = content
    envelope.mail_from = _bare(sender.address)
    envelope.mail_options = list(sender.params)
    envelope.rcpt_tos = [_bare(recipient.address) for recipient in recipients]
    envelope.rcpt_options += [text for recipient in recipients for text in recipient.params]


def _path(address: str, options: Sequence[str]) -> Path | None:
    """Return an address with its parameters, or None if no milter can be told of it."""
    try:
        return Path(address, *options)
    except ValueError:
        return None


def _bare(address: str) -> str:
    """Return an address as aiosmtpd has it: without brackets, but for the null sender."""
    return address if address == "<>" else address.removeprefix("<").removesuffix(">")


def _is_refusal(response: str) -> bool:
    return response[:1] in ("4", "5")


def _client(session: Session) -> Client:
    """Return the client as milters hear of it; aiosmtpd does not look up its name."""
    peer: Any = session.peer
    proxy: Any = session.proxy_data
    if proxy:
        peer = str(proxy.src_addr), proxy.src_port or 0
    try:
        # Link-local addresses of IPv6 have the name of an interface behind them.
        address = str(ip_address(peer[0].partition("%")[0]))
    except (IndexError, TypeError, ValueError):
        return Client("localhost", None, 0)  # on a unix socket
    return Client(f"[{address}]", address, peer[1])


def _macros(server: SMTP, session: Session, smtp: SmtpSession) -> dict[str, str]:
    """Return the macros that an aiosmtpd server knows."""
    transport = server.transport
    macros = {"j": server.hostname, "v": server.__ident__, "{daemon_name}": server.hostname}
    here: tuple[Any, ...] | str | None = (
        None if transport is None else transport.get_extra_info("sockname")
    )
    if isinstance(here, tuple):  # and not the path of a unix socket
        macros |= {"{daemon_addr}": str(here[0]), "{daemon_port}": str(here[1])}
    tls: Any = None if transport is None else transport.get_extra_info("ssl_object")
    if isinstance(tls, ssl.SSLObject):
        macros |= _tls_macros(tls)
    if session.authenticated:
        macros["{auth_type}"] = smtp.auth_type
        login: Any = getattr(session.auth_data, "login", session.auth_data)
        if isinstance(login, bytes):
            login = login.decode("utf-8", "replace")
        if isinstance(login, str):
            macros["{auth_authen}"] = login.replace("\0", "")
    return macros


def _tls_macros(tls: ssl.SSLObject) -> dict[str, str]:
    macros = {"{tls_version}": tls.version() or ""}
    cipher = tls.cipher()
    if cipher is not None:
        macros["{cipher}"], macros["{cipher_bits}"] = cipher[0], str(cipher[2])
    certificate = cast("Mapping[str, Any]", tls.getpeercert() or {})
    for who in ("subject", "issuer"):
        # As in Postfix the common name; Sendmail has the distinguished name.
        parts: Sequence[Sequence[tuple[str, str]]] = certificate.get(who, ())
        names = dict(pair for part in parts for pair in part)
        if "commonName" in names:
            macros[f"{{cert_{who}}}"] = names["commonName"].replace("\0", "")
    return macros


def _check_hooks(handler: object) -> None:
    """Refuse a handler that would lose mail, or that aiosmtpd calls in another way."""
    name = type(handler).__name__
    if not hasattr(handler, "handle_DATA"):
        raise ConfigError(f"{name} has no handle_DATA, so that filtered mail would go nowhere")
    ehlo = getattr(handler, "handle_EHLO", None)
    if ehlo is not None and len(inspect.signature(ehlo).parameters) == _OLD_EHLO_PARAMETERS:
        raise ConfigError(
            f"{name}.handle_EHLO takes no list of responses: have it as "
            "handle_EHLO(self, server, session, envelope, hostname, responses), and return a list"
        )
