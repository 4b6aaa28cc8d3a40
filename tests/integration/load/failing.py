"""Mail of which a tenth meets a broken handler: none of it may be lost, and none may pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aiomilter import EomActions, Milter, Server
from aiomilter.testing.servers import Mta
from aiomilter.testing.servers.sink import Sink
from aiomilter.testing.servers.smtp import SmtpClient, dot_stuffed
from tests.integration.load.servers import UNIX, complaints, mail_server

__all__ = ["FAULTS", "STAGES", "Outcome", "send_all"]

STAGES = ("mail", "rcpt", "data", "header", "eoh", "body", "eom")
FAULTS: tuple[Callable[[], BaseException], ...] = (
    lambda: RuntimeError("broken"),
    lambda: SystemExit(1),
    KeyboardInterrupt,
    asyncio.CancelledError,
    lambda: BaseExceptionGroup("several", [SystemExit(2), ValueError()]),
    MemoryError,
    GeneratorExit,
)
EVERY = 10
"""Of so many messages one meets a fault."""

_SETTLE_S = 120
_A_SESSION = 25
_CONTENT = b"Subject: kept\r\n\r\n" + b"x" * 70 + b"\r\n"


class Failing(Milter):
    """Raises where and what the sender says, as in ``<rcpt.3@src.example>``; stamps the others."""

    sessions = 0

    def at(self, stage: str) -> None:
        """Raise, if this is the place for it."""
        place, _, rest = (self.sender or "").strip("<>").partition(".")
        if place == stage:
            fault = FAULTS[int(rest.partition("@")[0])]
            raise fault()

    def begin_message(self) -> None:
        self.body_bytes = 0

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.at("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.at("rcpt")

    async def on_data(self) -> None:
        self.at("data")

    async def on_header(self, name: str, value: str) -> None:
        self.at("header")

    async def on_eoh(self) -> None:
        self.at("eoh")

    async def on_body(self, chunk: bytes) -> None:
        self.body_bytes += len(chunk)
        self.at("body")

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Stamp", f"{' '.join(self.recipients)} {self.body_bytes}")
        self.at("eom")


@dataclass(slots=True)
class Outcome:
    """What became of all messages.

    Attributes:
        counts: ``injected``, ``accepted``, ``deferred``, ``delivered``, ``sessions`` of SMTP, and
            ``milter sessions``; and what must be 0: ``lost``, ``unfiltered`` (without the one
            right stamp), ``passed`` (in spite of a fault), ``refused`` (without a fault).
        complaints: What the mail server's log says of the milter.
        faults: How often a handler has failed, by stage.
    """

    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def is_kept(self) -> bool:
        """Whether all is as it was promised."""
        counts = self.counts
        bad = ("lost", "unfiltered", "passed", "refused")
        return (
            not self.complaints
            and not any(counts[name] for name in bad)
            and counts["injected"] == counts["delivered"] + counts["deferred"]
            and counts["milter sessions"] == counts["sessions"]
        )


async def send_all(kind: Mta, messages: int, clients: int = 8) -> Outcome:
    """Send messages through a mail server, each once; wait until all are delivered.

    Args:
        kind: The mail server.
        messages: How many.
        clients: How many SMTP sessions there are at a time.
    """
    outcome = Outcome()
    sessions = [0]

    class Counted(Failing):
        def __init__(self) -> None:
            sessions[0] += 1

    with Sink() as sink, mail_server(kind, sink) as server:
        async with Server(Counted, server.milter_address, config=UNIX):
            numbers = iter(range(messages))
            accepted: set[str] = set()
            async with asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(_client(server.smtp_port, numbers, outcome, accepted))
            await server.settle(_SETTLE_S)
        outcome.complaints = complaints(server)
        _judge(sink, accepted, outcome)
    outcome.counts["milter sessions"] = sessions[0]
    return outcome


async def _client(port: int, numbers: Iterator[int], outcome: Outcome, accepted: set[str]) -> None:
    is_over = False
    while not is_over:
        async with contextlib.AsyncExitStack() as stack:
            smtp: SmtpClient | None = None
            for _ in range(_A_SESSION):
                number = next(numbers, None)
                if number is None:
                    is_over = True
                    break
                if smtp is None:
                    smtp = await stack.enter_async_context(SmtpClient.connect(port))
                    await smtp.ehlo()
                    outcome.counts["sessions"] += 1
                await _send(smtp, number, outcome, accepted)


async def _send(smtp: SmtpClient, number: int, outcome: Outcome, accepted: set[str]) -> None:
    counts = outcome.counts
    recipient = f"<{number}@dst.example>"
    place = "none.0"
    if number % EVERY == 0:
        turn = number // EVERY
        stage = STAGES[turn % len(STAGES)]
        outcome.faults[stage] += 1
        # All pairs of a stage and a fault have their turn.
        place = f"{stage}.{turn // len(STAGES) % len(FAULTS)}"
    counts["injected"] += 1
    code = await _code_of(smtp, f"MAIL FROM:<{place}@src.example>", f"RCPT TO:{recipient}", "DATA")
    if code < 400:
        await smtp.send(dot_stuffed(_CONTENT))
        code = (await smtp.reply()).code
    if code == 250:
        counts["accepted"] += 1
        accepted.add(recipient)
        counts["passed"] += place != "none.0"
        return
    assert 400 <= code < 500, code
    counts["deferred"] += 1
    counts["refused"] += place == "none.0"
    await smtp.command("RSET")


async def _code_of(smtp: SmtpClient, *lines: str) -> int:
    """Say lines up to one that is refused; return the code of the last reply."""
    code = 0
    for line in lines:
        code = (await smtp.command(line)).code
        if code >= 400:
            break
    return code


def _judge(sink: Sink, accepted: set[str], outcome: Outcome) -> None:
    counts = outcome.counts
    came: Counter[str] = Counter()
    for delivery in sink.since(0):
        counts["delivered"] += 1
        came.update(delivery.recipients)
        stamp = f"X-Stamp: {' '.join(delivery.recipients)} {len(delivery.body)}".encode()
        stamps = [line for line in delivery.header_lines if line.startswith(b"X-Stamp:")]
        counts["unfiltered"] += stamps != [stamp]
    counts["lost"] = len(accepted - came.keys())
    # Of messages that were refused none may come, and none twice.
    counts["passed"] += len(came.keys() - accepted) + came.total() - len(came)
