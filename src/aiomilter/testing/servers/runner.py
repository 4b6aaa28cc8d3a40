"""Real mail servers for cases, started when they are first asked for, and the run of a case.

::

    with MailServers() as servers:
        for case in load_cases(Path("cases")):
            for kind in case.servers:
                (await servers.run(case, kind)).assert_passed()
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from aiomilter.aio.server import MilterFactory
from aiomilter.app.mta.kind import Mta
from aiomilter.testing.servers.case import Case, Expected
from aiomilter.testing.servers.comparison import compare_delivery, compare_held, compare_notes
from aiomilter.testing.servers.dialogue import Dialogue, UnexpectedReplyError
from aiomilter.testing.servers.notes import Notes
from aiomilter.testing.servers.ports import ReservedPort
from aiomilter.testing.servers.postfix import Postfix
from aiomilter.testing.servers.result import CaseResult
from aiomilter.testing.servers.script import Script
from aiomilter.testing.servers.sendmail import Sendmail
from aiomilter.testing.servers.server import MailServer
from aiomilter.testing.servers.serving import served
from aiomilter.testing.servers.sink import Delivery, Sink

__all__ = ["Between", "MailServers"]

Between = Callable[[str, str], AbstractAsyncContextManager[object]]
"""Stands between the mail server and the milter: called with where to listen and where to go on."""


class MailServers:
    """All mail servers of a test run, and one sink behind them; a context manager.

    There is one instance for each combination of settings, started when a case needs it. Cases of
    one object are run one after the other.
    """

    def __init__(self, *, milter: str | None = None, sendmail_root: Path | None = None) -> None:
        """Prepare; nothing runs yet.

        Args:
            milter: The address of a milter that is running already, in whatever language: the
                servers consult it, and the cases' own milters are left out. None: each case's own.
            sendmail_root: Where Debian's packages of Sendmail are unpacked; see `Sendmail`.
        """
        self._milter = milter
        self._sendmail_root = sendmail_root
        self._stack = ExitStack()
        self._sink = Sink()
        self._running: dict[object, MailServer] = {}
        self._versions: dict[Mta, str] = {}
        self._directory = Path()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._sink)
            self._directory = Path(tempfile.mkdtemp(prefix="aiomilter-cases-"))
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def server_for(self, case: Case, kind: Mta) -> MailServer:
        """Return the running server that has the settings of a case; start it if need be.

        Raises:
            RuntimeError: It cannot be started; the text holds what it said.
        """
        settings = {
            name: value.replace("{here}", str(case.path.parent.resolve()))
            for name, value in case.settings.of_server[kind].items()
        }
        key = (kind, case.settings.over, *sorted(settings.items()))
        if key not in self._running:
            self._running[key] = self._start(kind, case.settings.over, settings)
        return self._running[key]

    def _start(self, kind: Mta, over: str, settings: dict[str, str]) -> MailServer:
        address = self._milter
        if address is None and over == "inet":
            port = self._stack.enter_context(ReservedPort())
            address = f"inet:{port.number}@127.0.0.1"
        server = (
            Postfix(self._sink.port, address, settings)
            if kind is Mta.POSTFIX
            else Sendmail(self._sink.port, address, settings, root=self._sendmail_root)
        )
        self._stack.callback(server.stop)
        server.start()
        self._versions.setdefault(kind, server.version)
        return server

    async def run(
        self,
        case: Case,
        kind: Mta,
        milter: MilterFactory | None = None,
        *,
        between: Between | None = None,
    ) -> CaseResult:
        """Run a case with one mail server.

        Args:
            case: The case.
            kind: Which mail server.
            milter: Makes the milter; None for the one that is written in the case.
            between: What stands between the two, such as a recorder.

        Returns:
            What came of it.

        Raises:
            CaseError: The case cannot be run.
            RuntimeError: The mail server cannot be started.
        """
        server = self.server_for(case, kind)
        began = time.monotonic()
        log_before = len(server.log_text())
        result = CaseResult(case, kind, self._versions[kind])
        notes = Notes(self._directory / f"notes-{began}")
        script = Script(case, notes.add)
        run = _Run(case, server, self._sink, script, notes, result)
        is_unclear = True
        try:
            async with AsyncExitStack() as stack:
                address = server.milter_address
                if between is not None:
                    address = f"unix:{server.directory}/behind.sock"
                    await stack.enter_async_context(between(server.milter_address, address))
                if self._milter is None:
                    serving = served(case, script, address, notes, factory=milter)
                    await stack.enter_async_context(serving)
                await run.play()
            await run.compare()
            is_unclear = not result.passed
        except (OSError, RuntimeError) as error:
            # A server that is gone, or holds on to its milter.
            result.differences.append(f"{type(error).__name__}: {error}")
        finally:
            result.log = server.log_text()[log_before:].splitlines()
            result.seconds = time.monotonic() - began
            if is_unclear:
                # Whatever has become of the server must not trouble the next case.
                self._dismiss(server)
        return result

    def _dismiss(self, server: MailServer) -> None:
        self._running = {key: one for key, one in self._running.items() if one is not server}
        server.stop()


class _Run:
    """One run of one case."""

    def __init__(
        self,
        case: Case,
        server: MailServer,
        sink: Sink,
        script: Script,
        notes: Notes,
        result: CaseResult,
    ) -> None:
        self._case = case
        self._server = server
        self._sink = sink
        self._script = script
        self._notes = notes
        self._result = result
        self._total = sink.total
        self._kind = server.kind

    async def play(self) -> None:
        """Hold the dialogue, and wait until the server has nothing more to do."""
        dialogue = Dialogue(self._server, self._script)
        try:
            await dialogue.play(self._case.steps_for(self._kind), self._notes.until)
            await self._server.settle()
        except UnexpectedReplyError as error:
            self._result.differences.append(
                f"the reply is not as expected\n- {_indented(error.expected)}\n"
                f"+ {_indented(error.got)}"
            )
        finally:
            self._result.transcript = dialogue.transcript

    async def compare(self) -> None:
        """Hold what was held, delivered and noted against the case."""
        # Once more: only now that it asks the milter nothing any more the server is idle.
        await self._server.settle()
        expected = self._case.expected_of(self._kind)
        await self._take_held([message for message in expected if message.is_held])
        delivered = self._sink.since(self._total)
        for message in expected:
            differences = [compare_delivery(message, one, self._script.names) for one in delivered]
            if "" in differences:
                delivered.pop(differences.index(""))
            else:
                nearest = min(differences, key=len, default="nothing was delivered")
                self._result.differences.append(f"what is delivered differs\n{nearest}")
                if delivered:
                    del delivered[differences.index(nearest)]
        self._result.differences.extend(
            f"delivered without being expected:\n{_shown(one)}" for one in delivered
        )
        notes = self._case.notes_of(self._kind)
        if notes is not None:
            patterns = [note.fill(self._script.names) for note in notes]
            self._result.differences.extend(compare_notes(patterns, self._notes.lines()))

    async def _take_held(self, expected: list[Expected]) -> None:
        held = await self._server.held()
        differences = compare_held(expected, held, self._script.names)
        self._result.differences.extend(differences)
        for message in held:
            await self._server.release(message.queue_id)
        if held:
            await self._server.settle()


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


def _shown(delivery: Delivery) -> str:
    lines = [f"from {delivery.sender}", *(f"to {one}" for one in delivery.recipients)]
    text = re.sub(rb"\r\n", b"\n  ", delivery.content).decode("utf-8", "backslashreplace")
    return "\n".join(f"+ {line}" for line in lines) + f"\n  {text[:2000]}"
