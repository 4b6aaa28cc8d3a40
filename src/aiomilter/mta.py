"""The MTA's end of the milter protocol: consult any milter, in whatever language it is written.

For example::

    from aiomilter.mta import Client, Envelope, connect

    async with connect("inet:8891@127.0.0.1") as milter:
        envelope = Envelope("alice@example.com", ["bob@example.org"])
        outcome = await milter.send(envelope, message, client=Client("mx.example.com", "192.0.2.1"))
        if (delivery := outcome.apply()) is not None:
            deliver(delivery.envelope, delivery.content.as_bytes())
"""

from __future__ import annotations

from aiomilter.aio.mta import MilterConnection, Timeouts, Wire, connect
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery
from aiomilter.app.mta.edits import (
    BodyReplaced,
    Edit,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Answer, Outcome, RecipientResult, Step
from aiomilter.session.mta import MtaSession, Offer

__all__ = [
    "Answer",
    "BodyReplaced",
    "Client",
    "Content",
    "Delivery",
    "Edit",
    "Envelope",
    "HeaderAdded",
    "HeaderChanged",
    "HeaderInserted",
    "MilterConnection",
    "Mta",
    "MtaSession",
    "Offer",
    "Outcome",
    "Path",
    "Quarantined",
    "RecipientAdded",
    "RecipientDeleted",
    "RecipientResult",
    "SenderChanged",
    "Step",
    "Timeouts",
    "Wire",
    "connect",
]
