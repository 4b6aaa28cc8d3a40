"""The MTA's end on asyncio: a connection to a milter that is awaited.

Rules of this file:

- What is said, and in which order, is `aiomilter.app.mta.conversation`; here are reading, writing
  and time.
- A milter that is too slow, goes away or breaks the protocol ends the connection: whoever uses it
  gets one error for that, and `MilterUnavailable` for everything after it. So does a call that is
  cancelled: nobody knows any more which answer is for what.
- Times are Postfix's: 30 s to connect, 30 s for a reply to a command, 300 s for one to a part of
  the message. Progress begins the time anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from email.message import Message as EmailMessage
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from aiomilter.aio.dial import dial
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.conversation import Conversation, Steps
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Answer, Outcome
from aiomilter.errors import LocalProtocolError, MilterUnavailable, RemoteProtocolError
from aiomilter.session.mta import Offer
from aiomilter.wire.replies import Negotiated

__all__ = ["MilterConnection", "Timeouts", "Wire", "connect", "parse_content"]

_T = TypeVar("_T")

_CONTENT_STAGES = ("header", "eoh", "body", "eom")
_GOODBYE_S = 5.0
"""How long QUIT may take to leave."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a milter may take, in seconds; the defaults are Postfix's.

    Attributes:
        connect: To take the connection.
        command: To answer the offer, and a command up to DATA.
        content: To answer a header, a piece of the body, or the end of the message.
    """

    connect: float = 30.0
    command: float = 30.0
    content: float = 300.0


class Wire(Protocol):
    """A connection: what `MilterConnection` needs of one."""

    async def read(self) -> bytes:
        """Return what has come in, as soon as there is something; nothing at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send, and wait while the other end does not read."""

    async def close(self) -> None:
        """Close the connection; what was written still goes out."""

    def abort(self) -> None:
        """Close the connection without waiting for anything."""


async def parse_content(message: bytes | str | EmailMessage | FilePath | Content) -> Content:
    """Take a message apart; a file is read in a thread.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(message, FilePath):
        return await asyncio.to_thread(Content.parse, message)
    return Content.parse(message)


class MilterConnection:
    """A connection to a milter that has been agreed on.

    The stages of SMTP, one call each, and `send`, which makes all of them. Any call may raise
    `RemoteProtocolError`, if the milter breaks a rule of the protocol, and `MilterUnavailable`, if
    it is gone, or does not answer in time; the connection is over then. One call at a time.

    Attributes:
        name: The milter's address, for messages.
    """

    def __init__(
        self,
        wire: Wire,
        conversation: Conversation,
        *,
        timeouts: Timeouts,
        name: str,
        open_wire: Callable[[], Awaitable[Wire]] | None = None,
    ) -> None:
        """Use a connection that is open.

        Args:
            wire: The connection.
            conversation: What is said on it.
            timeouts: How long the milter may take.
            name: The milter's address, for messages.
            open_wire: Opens another connection, for another client; None if there is no way.
        """
        self._wire = wire
        self._open_wire = open_wire
        self._conversation = conversation
        self._session = conversation.session
        self._timeouts = timeouts
        self._is_over = False
        self._is_busy = False
        self.name = name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self.disconnect()
        await self.close()

    # The connection

    @property
    def agreed(self) -> Negotiated:
        """What the milter has answered to the offer."""
        return self._session.agreed

    @property
    def is_over(self) -> bool:
        """Whether the connection is of no use any more."""
        return self._is_over

    async def negotiate(self) -> None:
        """Agree with the milter; `connect` has done so."""
        await self._run(self._conversation.negotiate())

    async def close(self) -> None:
        """Say QUIT and close; does nothing if the connection is over.

        A call that is still in progress ends in `MilterUnavailable`.
        """
        if self._is_over:
            return
        if self._is_busy:
            self.disconnect()
            return
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._run(self._conversation.quit())
                self._is_over = True
                await self._wire.close()
        except (MilterUnavailable, RemoteProtocolError, TimeoutError):
            # It has closed already, or says something nobody has asked for. All was answered.
            self.disconnect()
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        """Close the connection without a word, as an MTA does that is killed."""
        self._is_over = True
        self._wire.abort()

    # All of a message

    async def send(
        self,
        envelope: Envelope,
        message: bytes | str | EmailMessage | FilePath | Content,
        *,
        client: Client | None = None,
        macros: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Consult the milter about a message.

        Args:
            envelope: Who sends it to whom.
            message: The message, its lines with CRLF or LF; or the path of a file that holds it.
            client: The client that brings it. None for the one before, or one that is made up.
                For another client another connection is opened, as mail servers do.
            macros: Values by name, as ``{"{auth_authen}": "joe"}``; they come ahead of those that
                are made up.

        Raises:
            OSError: The message is a file that cannot be read.
            LocalProtocolError: Another client is to come in, and there is no way to open another
                connection.
        """
        content = await parse_content(message)
        with self._in_use():
            if self._open_wire is not None and self._conversation.is_other(client):
                await self._reopen(self._open_wire)
            return await self._drive(self._conversation.send(envelope, content, client, macros))

    def give_macros(self, macros: Mapping[str, str]) -> None:
        """Take values by name, for all commands from now on; those given before are dropped."""
        self._conversation.give_macros(macros)

    # Command by command

    async def connect(self, client: Client | None = None) -> Answer:
        """Begin an SMTP session: tell of the client."""
        return await self._run(self._conversation.connect(client))

    async def helo(self, name: str | None = None) -> Answer:
        """Tell what the client says at HELO or EHLO; None for what the client is known to say."""
        return await self._run(self._conversation.helo(name))

    async def mail(self, sender: str | Path) -> Answer:
        """Begin a message with its sender."""
        return await self._run(self._conversation.mail(sender))

    async def rcpt(self, recipient: str | Path) -> Answer:
        """Ask about a recipient."""
        return await self._run(self._conversation.rcpt(recipient))

    async def data(self) -> Answer:
        """Tell that the client has said DATA."""
        return await self._run(self._conversation.data())

    async def header(self, name: str, value: str) -> Answer:
        """Tell of a header; ``value`` is all behind the colon, also the blank in front."""
        return await self._run(self._conversation.header(name, value))

    async def end_of_headers(self) -> Answer:
        """Tell that there are no more headers."""
        return await self._run(self._conversation.end_of_headers())

    async def body(self, data: bytes) -> Answer:
        """Tell of the body, or a part of it, in as many pieces as it takes."""
        return await self._run(self._conversation.body(data))

    async def end_of_message(self) -> Answer:
        """Ask for the verdict, and for the edits."""
        return await self._run(self._conversation.end_of_message())

    async def unknown(self, command: str) -> Answer:
        """Tell of an SMTP command that the MTA does not know."""
        return await self._run(self._conversation.unknown(command))

    async def abort(self) -> None:
        """Give up the message."""
        await self._run(self._conversation.abort())

    async def new_session(self) -> None:
        """End the SMTP session (QUIT_NC); `connect` begins another one."""
        await self._run(self._conversation.new_session())

    # Below

    async def _reopen(self, open_wire: Callable[[], Awaitable[Wire]]) -> None:
        """Go on over another connection."""
        with contextlib.suppress(MilterUnavailable, RemoteProtocolError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._drive(self._conversation.quit())
                await self._wire.close()
        self._wire.abort()
        wire = await open_wire()
        if self._is_over:
            wire.abort()
            raise MilterUnavailable(f"{self.name}: the connection was closed meanwhile")
        self._wire = wire
        self._conversation = self._conversation.again()
        self._session = self._conversation.session
        await self._drive(self._conversation.negotiate())

    async def _run(self, steps: Steps[_T]) -> _T:
        with self._in_use():
            return await self._drive(steps)

    @contextlib.contextmanager
    def _in_use(self) -> Generator[None, None, None]:
        """Keep other calls out, and end the connection if this one breaks off in the middle."""
        if self._is_over:
            raise MilterUnavailable(f"{self.name}: the connection is over; open another one")
        if self._is_busy:
            raise LocalProtocolError(f"{self.name}: another call is in progress; one at a time")
        self._is_busy = True
        try:
            yield
        except (LocalProtocolError, ValueError, TypeError):
            # Refused by this end, with nothing left to be answered.
            raise
        except BaseException:
            self.disconnect()
            raise
        finally:
            self._is_busy = False

    async def _drive(self, steps: Steps[_T]) -> _T:
        session, loop = self._session, asyncio.get_running_loop()
        seen: tuple[int, int] | None = None
        deadline = 0.0
        while True:
            try:
                must_read = next(steps)
            except StopIteration as end:
                await self._write()
                result: _T = end.value
                return result
            await self._write()
            if must_read:
                # The time is for a whole packet: a byte now and then does not make it longer.
                if seen != (session.packets_sent, session.packets_received):
                    seen = session.packets_sent, session.packets_received
                    deadline = loop.time() + self._limit_s()
                await self._read(deadline)

    async def _write(self) -> None:
        data = self._session.data_to_send()
        if not data:
            return
        await self._check_silence()
        limit_s = self._limit_s()
        try:
            async with asyncio.timeout(limit_s):
                await self._wire.write(data)
        except TimeoutError:
            raise MilterUnavailable(f"{self.name} has not read for {limit_s:g} s") from None
        except OSError as error:
            raise self._gone(error) from error

    async def _check_silence(self) -> None:
        """Make sure that nothing has come by itself: it would pass for the next answer."""
        if not self._session.packets_received:
            # Who greets ahead of the offer is no milter; the negotiation names what it is.
            return
        try:
            async with asyncio.timeout(0):
                data = await self._wire.read()
        except (TimeoutError, OSError):
            return
        if data:
            self._session.receive_unasked(data)

    async def _read(self, deadline: float) -> None:
        session = self._session
        if session.has_eof:
            raise self._gone(None)
        try:
            async with asyncio.timeout_at(deadline):
                data = await self._wire.read()
        except TimeoutError:
            raise MilterUnavailable(
                f"{self.name} has not answered {session.awaited} within {self._limit_s():g} s"
            ) from None
        except OSError as error:
            raise self._gone(error) from error
        if data:
            session.receive_data(data)
        else:
            session.receive_eof()

    def _gone(self, error: OSError | None) -> MilterUnavailable:
        awaited = self._session.awaited
        where = f"instead of an answer to {awaited}" if awaited else "between two commands"
        how = "has closed the connection" if error is None else f"is gone ({error})"
        return MilterUnavailable(f"{self.name} {how} {where}")

    def _limit_s(self) -> float:
        is_content = self._session.awaited in _CONTENT_STAGES
        return self._timeouts.content if is_content else self._timeouts.command


class connect:  # noqa: N801  (used as a function)
    """Connect to a milter, and agree with it.

    As a context manager it says goodbye at its end::

        async with connect("inet:8891@127.0.0.1") as milter:
            outcome = await milter.send(Envelope("a@example.com", "b@example.org"), message)

    Awaited, it returns the `MilterConnection` itself, which is then to be closed.

    Raises:
        ConfigError: The address is none.
        MilterUnavailable: The milter cannot be reached, or does not answer in time.
        RemoteProtocolError: What answers there is no milter, or one that asks for what was not
            offered.
    """

    def __init__(
        self,
        address: str,
        *,
        mta: Mta = Mta.POSTFIX,
        offer: Offer | None = None,
        macros: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Be ready to connect.

        Args:
            address: As of `aiomilter.aio.address`, for example ``unix:/run/my.sock``.
            mta: As which MTA to behave.
            offer: The version, actions and options to offer; None for all there are.
            macros: Values by name, that come ahead of those that are made up.
            timeouts: None for Postfix's.
        """
        self._address = address
        self._mta = mta
        self._offer = offer
        self._macros = macros
        self._timeouts = timeouts or Timeouts()
        self._connection: MilterConnection | None = None

    def __await__(self) -> Generator[Any, None, MilterConnection]:
        return self._open().__await__()

    async def __aenter__(self) -> MilterConnection:
        self._connection = await self._open()
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._connection is not None
        await self._connection.__aexit__(kind, error, trace)

    async def _open(self) -> MilterConnection:
        conversation = Conversation(self._offer, mta=self._mta, macros=self._macros)
        connection = MilterConnection(
            await self._dial(),
            conversation,
            timeouts=self._timeouts,
            name=self._address,
            open_wire=self._dial,
        )
        await connection.negotiate()
        return connection

    async def _dial(self) -> Wire:
        return await dial(self._address, timeout_s=self._timeouts.connect)
