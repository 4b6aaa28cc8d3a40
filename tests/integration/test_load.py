"""Thousands of messages through a Postfix, and restarts of the milter in the middle of mail."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from tests.integration.load.clients import Ledger, send_all
from tests.integration.load.rig import Delivered, LoadRig, assert_stamped_once, stop

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.unmeasured]

SMTP_SOURCE = "/usr/sbin/smtp-source"
SESSIONS = 50
MESSAGES = 5_000
COMPARED = 1_000
"""How many go without a milter."""
CONTENT_BYTES = 2_000
LOAD_S = 60

CLIENTS = 8
MESSAGES_A_CLIENT = 40
BETWEEN_OUTAGES = 60
STOPS = 3
RESTARTS_S = 40
CONTENT = b"Subject: kept\r\n\r\n" + b"x" * 70 + b"\r\n"


@pytest.fixture
async def rig() -> AsyncIterator[LoadRig]:
    """A Postfix of its own for each test."""
    async with LoadRig.started() as rig:
        yield rig


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load.

    Attributes:
        deliveries: The messages as they arrived.
        seconds: From the first connection to the last delivery.
    """

    deliveries: list[Delivered]
    seconds: float


async def load(rig: LoadRig, listener: str, mailbox: str, messages: int) -> Load:
    """Send messages through a listener, to numbered mailboxes, and wait until all are delivered."""
    before = len(await rig.all_delivered())
    began = time.monotonic()
    source = await asyncio.create_subprocess_exec(
        *(SMTP_SOURCE, "-s", str(SESSIONS), "-m", str(messages), "-l", str(CONTENT_BYTES)),
        *("-N", "-f", "a@src.example", "-t", f"{mailbox}@dst.example"),
        f"127.0.0.1:{rig.postfix.port(listener)}",
    )
    try:
        # It ends with another status as soon as a reply is not what it expects.
        assert await asyncio.wait_for(source.wait(), LOAD_S) == 0
    finally:
        if source.returncode is None:
            source.kill()
            await source.wait()
    await rig.delivered(before + messages, LOAD_S)
    seconds = time.monotonic() - began
    deliveries = (await rig.all_delivered())[before:]
    assert_each_came_once(deliveries, mailbox, messages)
    return Load(deliveries, seconds)


def assert_each_came_once(deliveries: list[Delivered], mailbox: str, messages: int) -> None:
    assert len(deliveries) == messages
    # smtp-source puts a number in front of each recipient, from 1 on. Postfix's short queue ids are
    # no good for this: one of many thousands comes twice now and then.
    numbers = range(1, messages + 1)
    recipients = [recipient for delivered in deliveries for recipient in delivered.recipients]
    assert sorted(recipients) == sorted(f"<{number}{mailbox}@dst.example>" for number in numbers)


def cost(plain: list[Load], edited: Load, milter_cpu_s: float) -> str:
    """Say in a line what the milter adds."""
    plain_s = sum(load.seconds for load in plain) / sum(len(load.deliveries) for load in plain)
    edited_s = edited.seconds / MESSAGES
    return (
        f"{MESSAGES} messages through Postfix, {SESSIONS} sessions at a time: "
        f"{1 / plain_s:.0f}/s without a milter, {1 / edited_s:.0f}/s with one "
        f"({plain_s / edited_s:.0%}); it adds {(edited_s - plain_s) * 1000:.2f} ms a message, "
        f"and takes {milter_cpu_s / MESSAGES * 1000:.2f} ms of CPU"
    )


@pytest.mark.timeout(180)
async def test_load_through_postfix_loses_and_mixes_up_nothing(
    rig: LoadRig, record_property: Callable[[str, object], None]
) -> None:
    # Half of what is compared goes first and half last: a machine that gets slower or faster
    # meanwhile does not show as a cost.
    before = await load(rig, "plain", "before", COMPARED // 2)
    async with rig.milter("Stamp") as milter:
        cpu_s = -milter.cpu_s()
        edited = await load(rig, "milter", "edited", MESSAGES)
        cpu_s += milter.cpu_s()
        await stop(milter)
    after = await load(rig, "plain", "after", COMPARED // 2)
    assert_stamped_once(edited.deliveries)
    assert not any(delivered.stamps for delivered in before.deliveries + after.deliveries)
    assert "warning: milter" not in rig.postfix.log_text()
    record_property("summary", cost([before, after], edited, cpu_s))


async def restart_again_and_again(rig: LoadRig, ledger: Ledger) -> None:
    """Stop the milter and start it anew while mail flows; the last time it is killed."""
    for number in range(1, STOPS + 1):
        async with rig.milter("StampAfterLookup") as milter:
            await ledger.has_accepted(number * BETWEEN_OUTAGES)
            ledger.outage = f"stop {number}"
            await stop(milter)
    async with rig.milter("StampAfterLookup") as milter:
        await ledger.has_accepted((STOPS + 1) * BETWEEN_OUTAGES)
        ledger.outage = "kill"
        milter.send_signal(signal.SIGKILL)
        assert await milter.ended() == -signal.SIGKILL
    async with rig.milter("StampAfterLookup") as milter:
        await ledger.has_accepted(CLIENTS * MESSAGES_A_CLIENT)
        await stop(milter)


@pytest.mark.timeout(120)
async def test_restarts_under_load_lose_and_let_through_nothing(rig: LoadRig) -> None:
    ledger = Ledger()
    port = rig.postfix.port("milter")
    names = [
        [f"{client}-{message}" for message in range(MESSAGES_A_CLIENT)] for client in range(CLIENTS)
    ]
    async with asyncio.timeout(RESTARTS_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(restart_again_and_again(rig, ledger))
        for client, messages in enumerate(names):
            # Half of the clients come anew for each message, the others stay.
            per_session = 1 if client % 2 else len(messages)
            sending = send_all(port, messages, CONTENT, ledger, per_session=per_session)
            tasks.create_task(sending)
    await rig.delivered(len(ledger.accepted), RESTARTS_S)
    deliveries = await rig.all_delivered()
    assert_stamped_once(deliveries)
    # Each message came once, in the attempt that was accepted, and no refused attempt came.
    came = [(delivered.recipients, delivered.queue_id) for delivered in deliveries]
    assert sorted(came) == sorted(([to], queue_id) for to, queue_id in ledger.accepted.items())
    assert Counter(name for messages in names for name in messages) == Counter(
        recipient.strip("<").partition(".")[0] for recipient in ledger.accepted
    )
    # Each outage was noticed. One that was announced cut no message short: this milter is asked
    # about a message from RCPT on, and a message whose recipient it has taken is finished.
    assert {entry.outage for entry in ledger.refused} >= {"stop 1", "stop 2", "stop 3", "kill"}
    cut = [entry for entry in ledger.refused if entry.command not in ("MAIL", "RCPT")]
    assert {entry.outage for entry in cut} <= {"kill"}, cut
