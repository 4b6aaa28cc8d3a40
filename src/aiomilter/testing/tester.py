"""A milter under test, and the MTA that consults it: no socket, no mail server, no coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from email.message import Message as EmailMessage
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any, Self, TypeVar

from aiomilter.aio.config import Config
from aiomilter.aio.server import MilterFactory
from aiomilter.app.milter import Milter
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.envelope import Client, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.session.mta import Offer
from aiomilter.testing.async_tester import AsyncMilterTester
from aiomilter.testing.calls import DEFAULT_MESSAGE, RECIPIENT, SENDER, Call
from aiomilter.testing.faults import Fault
from aiomilter.testing.results import Result, StageResult

__all__ = ["MilterTester"]

_T = TypeVar("_T")

_LAST_MOMENT_S = 0.5
"""How long tasks that handlers have left behind may take to end."""


class MilterTester:
    r"""Tests a milter, without sockets: an MTA in memory consults it.

    ::

        with MilterTester(MyMilter) as tester:
            tester.rcpt("nobody@example.org").assert_rejected(550)
            tester.send("Subject: hello\n\nHello!\n").assert_accepted()

    The milter is served as in production, with the budgets of its `Config`, threads for plain
    ``def`` handlers, and the fault boundary. A call returns when the milter has served all that it
    was sent.

    The methods are what an MTA does, `send` all of it for a message, the others one command each.
    A stage fills in those ahead of it that were left out, each with a default: `helo` does
    `connect`; `mail` that and `helo`; and so on through `rcpt`, `data`, the headers of a small
    message, `end_of_headers` and its `body` to `end_of_message`. So `end_of_message` completes
    whatever was begun. `mail`, `helo` and `send` give up a message in progress (ABORT) and begin
    another; `connect` begins another SMTP session, as `new_session` does. After `quit` and
    `disconnect`, and if the milter has closed it, the next call opens another connection.

    Once there is a verdict, the milter is not asked any more about what it has decided; further
    stages return that verdict.

    A handler that fails fails the test: the call raises `HandlerFault`, with what the handler
    raised as its cause. A call that takes too long raises `TimeoutError`, which names the handler.
    (A coroutine that blocks the event loop cannot be interrupted: only what it blocks on can.)

    In a coroutine use `aiomilter.testing.AsyncMilterTester`.
    """

    def __init__(
        self,
        milter_factory: MilterFactory,
        *,
        config: Config | None = None,
        mta: Mta = Mta.POSTFIX,
        offer: Offer | None = None,
        macros: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        raise_faults: bool = True,
        chunk_bytes: int | None = None,
    ) -> None:
        """Prepare a test; nothing is opened yet.

        Args:
            milter_factory: Makes the milter of a session: a subclass of `aiomilter.Milter`, or
                any callable without arguments.
            config: The settings to serve it with; None for the defaults.
            mta: As which MTA to behave.
            offer: The version, actions and options to offer; None for all there are.
            macros: Values by name, as ``{"{auth_authen}": "joe"}``; they come ahead of those that
                are made up.
            timeout: How long a call may take, in seconds.
            raise_faults: Whether a call raises `HandlerFault` for a handler that has failed.
                False to see what the MTA sees then; `faults` has what has happened.
            chunk_bytes: How many bytes arrive at a time, at either end; None for whatever there
                is. 1 cuts every packet everywhere.

        Raises:
            ConfigError: The milter class cannot work.
        """
        self._tester = AsyncMilterTester(
            milter_factory,
            config=config,
            mta=mta,
            offer=offer,
            macros=macros,
            timeout=timeout,
            raise_faults=raise_faults,
            chunk_bytes=chunk_bytes,
        )
        # Not the default factory: it would also set the thread's event loop, which is not ours.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._is_closed = False

    def __enter__(self) -> Self:
        _check_no_loop()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(lambda: self._tester.__aexit__(kind, error, trace))

    # What can be seen

    @property
    def milters(self) -> list[Milter]:
        """The objects that the factory has made, one a session, the last one at the end."""
        return self._tester.milters

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults of handlers; a test that has looked at them does not fail for them."""
        return self._tester.faults

    def check_faults(self) -> None:
        """Raise `HandlerFault` if there is a fault that nobody has looked at."""
        __tracebackhide__ = True
        self._tester.check_faults()

    # Whole messages

    def send(
        self,
        message: bytes | str | EmailMessage | FilePath | Content = DEFAULT_MESSAGE,
        *,
        sender: str | Path = SENDER,
        recipients: str | Path | Iterable[str | Path] = (RECIPIENT,),
        client: Client | None = None,
        macros: Mapping[str, str] | None = None,
    ) -> Result:
        """Consult the milter about a message.

        Several messages come in the same SMTP session.

        Args:
            message: The message, its lines with CRLF or LF; or the path of a file that holds it.
            sender: Of the envelope, with or without angle brackets; ``<>`` is the null sender. A
                `Path` has ESMTP parameters.
            recipients: Of the envelope, as the sender.
            client: Who brings it; None for the one before, or one that is made up. Another client
                begins another SMTP session.
            macros: Values by name for this message.

        Raises:
            OSError: The message is a file that cannot be read.
            MilterUnavailable: The milter has refused the MTA's offer, or closed the connection.
            RemoteProtocolError: The milter has broken a rule of the protocol.
        """
        __tracebackhide__ = True
        return self._run(
            lambda: self._tester.send(
                message, sender=sender, recipients=recipients, client=client, macros=macros
            )
        )

    def play(self, calls: Iterable[Call]) -> list[StageResult | None]:
        """Make calls one after the other, such as those of `strategies.sessions`.

        Returns:
            Their results; None for those that have none.
        """
        __tracebackhide__ = True
        return self._run(lambda: self._tester.play(calls))

    # Command by command

    def connect(self, client: Client | None = None) -> StageResult:
        """Tell of a client: begin an SMTP session; one that was going on ends."""
        __tracebackhide__ = True
        return self._run(lambda: self._tester.connect(client))

    def helo(self, name: str | None = None) -> StageResult:
        """Tell what the client says at HELO; does `connect` first.

        Args:
            name: None for what the client is known to say.
        """
        __tracebackhide__ = True
        return self._run(lambda: self._tester.helo(name))

    def mail(self, sender: str | Path = SENDER) -> StageResult:
        """Begin a message with its sender; does `connect` and `helo` first."""
        __tracebackhide__ = True
        return self._run(lambda: self._tester.mail(sender))

    def rcpt(self, recipient: str | Path = RECIPIENT) -> StageResult:
        """Ask about a recipient; does `connect`, `helo` and `mail` first."""
        __tracebackhide__ = True
        return self._run(lambda: self._tester.rcpt(recipient))

    def data(self) -> StageResult:
        """Tell that the client has said DATA; does all up to `rcpt` first."""
        __tracebackhide__ = True
        return self._run(self._tester.data)

    def header(self, name: str, value: str) -> StageResult:
        r"""Tell of a header; does all up to `data` first.

        Args:
            name: As the client has written it.
            value: Lines separated by ``\n``. A blank goes in front, as mail programs write it,
                unless it begins with one.
        """
        __tracebackhide__ = True
        return self._run(lambda: self._tester.header(name, value))

    def end_of_headers(self) -> StageResult:
        """Tell that there are no more headers; does all up to some headers first."""
        __tracebackhide__ = True
        return self._run(self._tester.end_of_headers)

    def body(self, data: bytes) -> StageResult:
        """Tell of the body, or a part of it; does all up to `end_of_headers` first.

        Args:
            data: In as many packets as it takes; nothing is sent for an empty one.
        """
        __tracebackhide__ = True
        return self._run(lambda: self._tester.body(data))

    def end_of_message(self) -> Result:
        """Ask for the verdict, and for the edits; does all that was left out first.

        Returns:
            All about the message. If there was a verdict before, this is it.
        """
        __tracebackhide__ = True
        return self._run(self._tester.end_of_message)

    def unknown(self, command: str) -> StageResult:
        """Tell of an SMTP command that the MTA does not know; does `connect` first."""
        __tracebackhide__ = True
        return self._run(lambda: self._tester.unknown(command))

    def abort(self) -> None:
        """Give up the message, as after RSET; without one, begins one (up to `helo`) first."""
        __tracebackhide__ = True
        self._run(self._tester.abort)

    def new_session(self) -> None:
        """End the SMTP session, and keep the connection for another one (QUIT_NC).

        Where a milter would not heed QUIT_NC (behind CONNECT or HELO, or if the MTA's version has
        none), it is QUIT, and the next session is on another connection.
        """
        __tracebackhide__ = True
        self._run(self._tester.new_session)

    def quit(self) -> None:
        """Say QUIT and close the connection; returns when the milter's hooks have run."""
        __tracebackhide__ = True
        self._run(self._tester.quit)

    def disconnect(self) -> None:
        """Be gone without a word, as an MTA that is killed; returns when the hooks have run."""
        __tracebackhide__ = True
        self._run(self._tester.disconnect)

    def close(self) -> None:
        """Say QUIT, and have no more of it; the end of the context does so."""
        __tracebackhide__ = True
        self._close(self._tester.close)

    # Below

    def _run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        __tracebackhide__ = True
        _check_no_loop()
        if self._is_closed:
            raise RuntimeError("the tester is closed: make another one")
        return self._runner.run(call())

    def _close(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        __tracebackhide__ = True
        _check_no_loop()
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._runner.run(call())
        finally:
            self._close_loop()

    def _close_loop(self) -> None:
        loop = self._runner.get_loop()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            _, tasks = loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_MOMENT_S))
        if tasks:
            # A handler that was given up does not end. A runner would wait for it for ever.
            loop.close()
        else:
            self._runner.close()


def _check_no_loop() -> None:
    """Refuse to run a loop within a loop."""
    __tracebackhide__ = True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "MilterTester cannot run in a coroutine: use AsyncMilterTester (or the fixture "
        "async_milter_tester) there, whose methods are awaited"
    )
