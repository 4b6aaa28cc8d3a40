"""A milter under test, and the MTA that consults it, for tests that are coroutines.

Rules of this file:

- What an MTA would not do is not done: stages that were left out are filled in, a message in
  progress is given up (ABORT) before another one begins, and once there is a verdict the milter
  is not asked any more about what it has decided.
- A call returns when the milter has served all that it was sent, also by handlers that the MTA
  does not wait for.
- No call takes longer than the tester's time limit, and a handler's fault is the test's failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from email.message import Message as EmailMessage
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any, Self, TypeVar

from aiomilter.aio.config import Config
from aiomilter.aio.mta import MilterConnection, parse_content
from aiomilter.aio.server import MilterFactory, Server
from aiomilter.aio.threads import WorkerThreads
from aiomilter.app.milter import Milter
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Answer
from aiomilter.errors import LocalProtocolError, MilterError
from aiomilter.session.mta import Offer
from aiomilter.testing.calls import DEFAULT_MESSAGE, RECIPIENT, SENDER, Call
from aiomilter.testing.faults import Fault, Observations
from aiomilter.testing.link import Link
from aiomilter.testing.progress import STAGES, Progress, Stage
from aiomilter.testing.results import Result, StageResult

__all__ = ["AsyncMilterTester"]

_T = TypeVar("_T")


class AsyncMilterTester:
    r"""Tests a milter, without sockets: an MTA in memory consults it.

    The same as `aiomilter.testing.MilterTester`, where all is explained; the methods are awaited::

        async with AsyncMilterTester(MyMilter) as tester:
            result = await tester.send("Subject: hello\n\nHello!\n")
            result.assert_accepted()
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
        """Prepare a test; nothing is opened yet. See `aiomilter.testing.MilterTester`."""
        if chunk_bytes is not None and chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is at least 1, not {chunk_bytes}")
        # A server that never starts: it knows what makes a milter class or a config wrong.
        self._config = Server(milter_factory, config=config).config
        self._factory = milter_factory
        self._mta = mta
        self._offer = offer
        self._macros = macros
        self._timeout = timeout
        self._raise_faults = raise_faults
        self._chunk_bytes = chunk_bytes
        self._threads = WorkerThreads(self._config.max_threads)
        self._seen = Observations()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self._progress = Progress()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # The test has failed already; what else there is must not hide why.
            self._raise_faults = False
        await self.close()

    # What can be seen

    @property
    def milters(self) -> list[Milter]:
        """The objects that the factory has made, one a session, the last one at the end."""
        return list(self._seen.milters)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults of handlers; a test that has looked at them does not fail for them."""
        return self._seen.look()

    def check_faults(self) -> None:
        """Raise `HandlerFault` if there is a fault that nobody has looked at."""
        __tracebackhide__ = True
        self._seen.check()

    # Whole messages

    async def send(
        self,
        message: bytes | str | EmailMessage | FilePath | Content = DEFAULT_MESSAGE,
        *,
        sender: str | Path = SENDER,
        recipients: str | Path | Iterable[str | Path] = (RECIPIENT,),
        client: Client | None = None,
        macros: Mapping[str, str] | None = None,
    ) -> Result:
        """Consult the milter about a message."""
        __tracebackhide__ = True
        content = await parse_content(message)
        envelope = Envelope(sender, recipients)
        return await self._call(self._send(envelope, content, client, macros))

    async def play(self, calls: Iterable[Call]) -> list[StageResult | None]:
        """Make calls one after the other; return their results."""
        __tracebackhide__ = True
        return [await getattr(self, call.method)(*call.arguments) for call in calls]

    # Command by command

    async def connect(self, client: Client | None = None) -> StageResult:
        """Tell of a client: begin an SMTP session."""
        __tracebackhide__ = True
        return await self._call(self._connect(client))

    async def helo(self, name: str | None = None) -> StageResult:
        """Tell what the client says at HELO or EHLO."""
        __tracebackhide__ = True
        return await self._call(self._helo(name))

    async def mail(self, sender: str | Path = SENDER) -> StageResult:
        """Begin a message with its sender."""
        __tracebackhide__ = True
        return await self._call(self._mail(sender))

    async def rcpt(self, recipient: str | Path = RECIPIENT) -> StageResult:
        """Ask about a recipient."""
        __tracebackhide__ = True
        return await self._call(self._rcpt(recipient))

    async def data(self) -> StageResult:
        """Tell that the client has said DATA."""
        __tracebackhide__ = True
        return await self._call(self._stage(Stage.DATA, lambda mta: mta.data()))

    async def header(self, name: str, value: str) -> StageResult:
        """Tell of a header."""
        __tracebackhide__ = True
        spaced = value if value[:1] in ("", " ", "\t") else f" {value}"
        return await self._call(self._header(name, spaced))

    async def end_of_headers(self) -> StageResult:
        """Tell that there are no more headers."""
        __tracebackhide__ = True
        return await self._call(self._stage(Stage.EOH, lambda mta: mta.end_of_headers()))

    async def body(self, data: bytes) -> StageResult:
        """Tell of the body, or a part of it."""
        __tracebackhide__ = True
        return await self._call(self._body(data))

    async def end_of_message(self) -> Result:
        """Ask for the verdict, and for the edits."""
        __tracebackhide__ = True
        return await self._call(self._end_of_message())

    async def unknown(self, command: str) -> StageResult:
        """Tell of an SMTP command that the MTA does not know."""
        __tracebackhide__ = True
        return await self._call(self._unknown(command))

    async def abort(self) -> None:
        """Give up the message."""
        __tracebackhide__ = True
        await self._call(self._abort())

    async def new_session(self) -> None:
        """End the SMTP session, and keep the connection (QUIT_NC)."""
        __tracebackhide__ = True
        await self._call(self._new_session())

    async def quit(self) -> None:
        """Say QUIT and close the connection."""
        __tracebackhide__ = True
        await self._call(self._quit())

    async def disconnect(self) -> None:
        """Be gone without a word."""
        __tracebackhide__ = True
        await self._call(self._disconnect())

    async def close(self) -> None:
        """Say QUIT, and have no more of it."""
        __tracebackhide__ = True
        if self._is_closed:
            return
        try:
            await self._call(self._quit())
        finally:
            self._is_closed = True
            self._threads.close()

    # What each call does

    async def _send(
        self,
        envelope: Envelope,
        content: Content,
        client: Client | None,
        macros: Mapping[str, str] | None,
    ) -> Result:
        await self._drop_message()
        progress = self._progress
        if client is not None and progress.client not in (None, client):
            await self._new_session()
        link = await self._open()
        outcome = await link.mta.send(envelope, content, client=client, macros=macros)
        progress = self._progress
        progress.client = progress.client or client or Client()
        progress.reached = Stage.HELO
        if outcome.steps:
            progress.last = outcome.steps[-1].stage
        if self._mta is Mta.POSTFIX or outcome.stage == "rcpt":
            progress.last = "abort"
        if outcome.stage in ("connect", "helo"):
            progress.session_verdict = outcome.stage, Answer(outcome.status, outcome.reply)
        link.conversation.steps = []
        return Result.of(outcome)

    async def _connect(self, client: Client | None) -> StageResult:
        if self._progress.reached is not None:
            await self._new_session()
        self._progress.client = client or Client()
        return await self._stage(Stage.CONNECT, lambda mta: mta.connect(client))

    async def _helo(self, name: str | None) -> StageResult:
        await self._drop_message()
        return await self._stage(Stage.HELO, lambda mta: mta.helo(name))

    async def _mail(self, sender: str | Path) -> StageResult:
        await self._drop_message()
        path = sender if isinstance(sender, Path) else Path(sender)
        await self._fill_in(Stage.MAIL)
        self._progress.begin_message(path)
        return await self._stage(Stage.MAIL, lambda mta: mta.mail(path))

    async def _rcpt(self, recipient: str | Path) -> StageResult:
        path = recipient if isinstance(recipient, Path) else Path(recipient)
        await self._fill_in(Stage.RCPT)
        self._progress.message.paths.append(path)
        return await self._stage(Stage.RCPT, lambda mta: mta.rcpt(path))

    async def _header(self, name: str, value: str) -> StageResult:
        await self._fill_in(Stage.HEADER)
        self._progress.message.headers.append((name, value))
        return await self._stage(Stage.HEADER, lambda mta: mta.header(name, value))

    async def _headers(self) -> None:
        for name, value in DEFAULT_MESSAGE.headers:
            await self._header(name, value)

    async def _body(self, data: bytes) -> StageResult:
        await self._fill_in(Stage.BODY)
        self._progress.message.body += data
        return await self._stage(Stage.BODY, lambda mta: mta.body(data))

    async def _end_of_message(self) -> Result:
        await self._fill_in(Stage.EOM)
        progress = self._progress
        verdict = progress.verdict(Stage.EOM)
        link = await self._open()
        if verdict is None:
            verdict = "eom", await link.mta.end_of_message()
            progress.last = "eom"
        result = Result.of(progress.outcome(link.conversation, *verdict))
        # Postfix sends ABORT after every message, Sendmail after one that nobody has decided.
        if self._mta is Mta.POSTFIX or result.stage == "rcpt":
            await self._abort()
        progress.end_message()
        link.conversation.steps = []
        return result

    async def _unknown(self, command: str) -> StageResult:
        if self._progress.reached is None:
            await self._connect(None)
        if self._progress.session_verdict is not None:
            return _result(*self._progress.session_verdict)
        answer = await (await self._open()).mta.unknown(command)
        self._progress.last = "unknown"
        return _result("unknown", answer)

    async def _abort(self) -> None:
        if not self._progress.is_in_message:
            await self._fill_in(Stage.MAIL)
        link = await self._open()
        if self._progress.session_verdict is None:
            await link.mta.abort()
            self._progress.last = "abort"
        self._progress.end_message()
        link.conversation.steps = []

    async def _new_session(self) -> None:
        if self._link is None:
            return
        await self._drop_message()
        if self._link.conversation.heeds_quit_nc:
            await self._link.mta.new_session()
            self._progress = Progress()
        else:
            await self._quit()

    async def _quit(self) -> None:
        link = self._link
        if link is not None:
            await link.mta.close()
            await link.wait_closed()
            self._forget()

    async def _disconnect(self) -> None:
        link = self._link
        if link is not None:
            link.mta.disconnect()
            await link.wait_closed()
            self._forget()

    # Below

    async def _open(self) -> Link:
        if self._link is None:
            self._link = Link(
                self._factory,
                self._config,
                self._threads,
                self._seen,
                mta=self._mta,
                offer=self._offer,
                macros=self._macros,
                chunk_bytes=self._chunk_bytes,
            )
            await self._link.mta.negotiate()
        return self._link

    def _forget(self) -> None:
        self._link = None
        self._progress = Progress()

    async def _drop_message(self) -> None:
        """Give up the message in progress, if there is one."""
        if self._progress.is_in_message:
            await self._abort()

    async def _fill_in(self, stage: Stage) -> None:
        """Do what was left out ahead of a stage."""
        self._progress.check_order(stage)
        fill: dict[Stage, Callable[[], Coroutine[Any, Any, object]]] = {
            Stage.CONNECT: lambda: self._connect(None),
            Stage.HELO: lambda: self._helo(None),
            Stage.MAIL: lambda: self._mail(SENDER),
            Stage.RCPT: lambda: self._rcpt(RECIPIENT),
            Stage.DATA: lambda: self._stage(Stage.DATA, lambda mta: mta.data()),
            Stage.HEADER: self._headers,
            Stage.EOH: lambda: self._stage(Stage.EOH, lambda mta: mta.end_of_headers()),
            Stage.BODY: lambda: self._body(DEFAULT_MESSAGE.body),
        }
        for skipped in STAGES[:stage]:
            if self._progress.reached is None or skipped > self._progress.reached:
                await fill[skipped]()

    async def _stage(
        self, stage: Stage, ask: Callable[[MilterConnection], Awaitable[Answer]]
    ) -> StageResult:
        """Ask the milter, unless it has a verdict already."""
        await self._fill_in(stage)
        progress = self._progress
        verdict = progress.verdict(stage)
        progress.reached = stage
        if verdict is None:
            progress.last = stage.command
            answer = await ask((await self._open()).mta)
            progress.heed(stage, answer)
            verdict = stage.command, answer
        return _result(*verdict)

    async def _call(self, steps: Coroutine[Any, Any, _T]) -> _T:
        """Run what a call does: within the time limit, and with an eye on faults."""
        __tracebackhide__ = True
        try:
            self._enter_call()
        except BaseException:
            steps.close()
            raise
        warned = len(self._seen.lines)
        try:
            async with asyncio.timeout(self._timeout):
                result = await steps
                if self._link is not None:
                    await self._link.settle()
        except TimeoutError:
            raise TimeoutError(self._give_up()) from None
        except MilterError as error:
            if isinstance(error, LocalProtocolError):
                raise
            if self._raise_faults:
                self._seen.check()
            for line in self._seen.lines[warned:]:
                error.add_note(f"The milter's log: {line}")
            raise
        if self._raise_faults:
            self._seen.check()
        return result

    def _enter_call(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise RuntimeError("the tester is closed: make another one")
        if self._loop not in (None, loop):
            raise RuntimeError("the tester belongs to another event loop: make one for each")
        self._loop = loop
        if self._link is not None and self._link.is_over:
            self._forget()

    def _give_up(self) -> str:
        """End a connection on which nothing goes on; return what there is to say about it."""
        link = self._link
        assert link is not None
        running = link.running or "the milter"
        link.abort()
        self._forget()
        return f"{running} has not returned within {self._timeout:g} s"


def _result(stage: str, answer: Answer) -> StageResult:
    return StageResult(stage, answer.status, answer.reply)
