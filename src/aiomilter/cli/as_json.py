r"""What came of a question, for scripts; the shape is described in docs/cli.md.

Rules of this file:

- The output is ASCII: a byte that is no UTF-8 is a lone surrogate (``\udce9``), from which it can
  be made again.
- Names are those of the protocol tables: stages as commands, edits as replies.
"""

from __future__ import annotations

import json
from typing import Any

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
from aiomilter.app.mta.outcome import Outcome, Step
from aiomilter.app.reply import Reply
from aiomilter.app.text import decode_text
from aiomilter.cli.inquiry import Inquiry
from aiomilter.cli.report import flag_names, macro_requests
from aiomilter.spec import Actions, Options

__all__ = ["inquiry_as_json"]

_Object = dict[str, Any]


def inquiry_as_json(inquiry: Inquiry, exit_code: int) -> str:
    """Return everything as one object."""
    question, agreed, failure = inquiry.question, inquiry.agreed, inquiry.failure
    offer = question.offer
    document: _Object = {
        "format": "aiomilter-check",
        "version": 1,
        "address": question.address,
        "mta": question.mta.value,
        "offer": _agreement(offer.version, offer.actions, offer.options),
        "negotiation": None,
        "messages": [_outcome(outcome) for outcome in inquiry.outcomes],
        "error": None,
        "exit_code": exit_code,
    }
    if agreed is not None:
        document["negotiation"] = {
            **_agreement(agreed.version, agreed.actions, agreed.options),
            "macros": macro_requests(agreed),
        }
    if failure is not None:
        document["error"] = {
            "stage": failure.stage,
            "argument": failure.argument,
            "text": failure.sentence,
            "steps": [_step(step) for step in inquiry.open_steps],
        }
    return json.dumps(document, indent=2)


def _agreement(version: int, actions: int, options: int) -> _Object:
    return {
        "version": version,
        "actions": flag_names(Actions, actions),
        "options": flag_names(Options, options),
    }


def _outcome(outcome: Outcome) -> _Object:
    return {
        "status": outcome.status.name,
        "stage": outcome.stage,
        "reply": _reply(outcome.reply),
        "quarantine": outcome.quarantine,
        "recipients": [
            {
                "recipient": str(result.recipient),
                "status": result.answer.status.name,
                "reply": _reply(result.answer.reply),
            }
            for result in outcome.recipients
        ],
        "steps": [_step(step) for step in outcome.steps],
        "edits": [_edit(edit) for edit in outcome.edits],
        "delivery": _delivery(outcome.apply()),
    }


def _step(step: Step) -> _Object:
    return {
        "stage": step.stage,
        "argument": step.argument,
        "sent": step.was_sent,
        "answered": step.is_answered,
        "status": step.answer.status.name,
        "reply": _reply(step.answer.reply),
        "progress": step.answer.progress,
    }


def _reply(reply: Reply | None) -> _Object | None:
    if reply is None:
        return None
    return {
        "code": reply.code,
        "enhanced_code": reply.enhanced_code,
        "lines": list(reply.lines),
    }


def _edit(edit: Edit) -> _Object:
    match edit:
        case HeaderAdded(name, value):
            return {"edit": "add_header", "name": name, "value": value}
        case HeaderInserted(index, name, value):
            return {"edit": "insert_header", "index": index, "name": name, "value": value}
        case HeaderChanged(name, index, value):
            return {"edit": "change_header", "index": index, "name": name, "value": value}
        case SenderChanged(address, params):
            return {"edit": "change_sender", "address": address, "params": params}
        case RecipientAdded(address, params):
            return {"edit": "add_recipient", "address": address, "params": params}
        case RecipientDeleted(address):
            return {"edit": "delete_recipient", "address": address}
        case BodyReplaced(body):
            return {"edit": "replace_body", "body": decode_text(body)}
        case Quarantined(reason):
            return {"edit": "quarantine", "reason": reason}


def _delivery(delivery: Delivery | None) -> _Object | None:
    if delivery is None:
        return None
    return {
        "sender": str(delivery.envelope.sender),
        "recipients": [str(path) for path in delivery.envelope.recipients],
        "message": decode_text(delivery.content.as_bytes()),
    }
