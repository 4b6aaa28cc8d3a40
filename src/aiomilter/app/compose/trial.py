"""What a milter would have done: one line in the log for each message.

Rules of this file:

- Whatever came over the wire, and whatever the milter has made up, is made printable and cut.
- The line has at most a few KiB, however many edits there are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from aiomilter.app.facts import Facts, SessionLog
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
from aiomilter.app.record import cut_text
from aiomilter.app.reply import Reply
from aiomilter.session.status import Status

__all__ = ["Trial", "describe_edit"]

_logger = logging.getLogger("aiomilter.dry_run")

_MOST = 20
"""How many edits, and how many refused recipients, are told one by one."""
_TEXT_BYTES = 80
_REPLY_BYTES = 200


class Trial:
    """Keeps account of one milter that is run dry, in one session.

    Attributes:
        group: Those with the same number see each other's edits.
        refused: The recipients of the message in hand that it would have refused.
    """

    __slots__ = ("_is_told", "group", "refused")

    def __init__(self, group: int) -> None:
        self.group = group
        self.refused: list[str] = []
        self._is_told = True

    def begin_message(self) -> None:
        """Note that a message begins."""
        self.refused = []
        self._is_told = False

    def refuse(self, recipient: str) -> None:
        """Note a recipient that it would have refused."""
        self.refused.append(recipient)

    def tell_session(
        self, name: str, facts: Facts, stage: str, status: Status, result: object
    ) -> None:
        """Log a verdict on the whole session."""
        self._log(name, facts, stage, status.name.lower(), result, (), None)

    def tell(
        self,
        name: str,
        facts: Facts,
        stage: str,
        status: Status,
        result: object = None,
        edits: Sequence[Edit] = (),
        *,
        new_body_bytes: int | None = None,
        is_fault: bool = False,
    ) -> None:
        """Log what it would have done with the message in hand, unless that is done.

        Args:
            name: Of the milter.
            facts: With the ids for the log.
            stage: Where it has decided.
            status: Its verdict.
            result: The handler's, for the words of a reply.
            edits: What it would have changed; a new body is not among them.
            new_body_bytes: The size of a new body, or None.
            is_fault: Whether the verdict is that of a fault.
        """
        if self._is_told:
            return
        self._is_told = True
        verdict = status.name.lower()
        self._log(name, facts, stage, verdict, result, edits, new_body_bytes, is_fault=is_fault)

    def tell_abort(self, name: str, facts: Facts) -> None:
        """Log what there is to say of a message that is over before it has decided."""
        if not self._is_told and self.refused:
            self._log(name, facts, "rcpt", "abort", None, (), None)
        self._is_told = True

    def _log(
        self,
        name: str,
        facts: Facts,
        stage: str,
        verdict: str,
        result: object,
        edits: Sequence[Edit],
        new_body_bytes: int | None,
        *,
        is_fault: bool = False,
    ) -> None:
        shown = [describe_edit(edit) for edit in edits[:_MOST]]
        if new_body_bytes is not None:
            shown.append(f"replace_body({new_body_bytes} bytes)")
        refused = [cut_text(one, _TEXT_BYTES) or "" for one in self.refused[:_MOST]]
        record: dict[str, object] = {"dry_run": name, "verdict": verdict, "stage": stage}
        if isinstance(result, Reply):
            record["reply"] = cut_text(str(result), _REPLY_BYTES) or ""
        if is_fault:
            record["fault"] = True
        lists: list[str] = []
        if refused:
            lists.append(_list("refused", refused, len(self.refused)))
            record["refused"] = refused
            record["refused_count"] = len(self.refused)
        if shown:
            record["edits"] = shown
            record["edit_count"] = len(edits) + (new_body_bytes is not None)
            lists.append(_list("edits", shown, len(edits) + (new_body_bytes is not None)))
        log = SessionLog(_logger, facts)
        log.info("%s", _as_text(record, lists), extra={"aiomilter": record})


def describe_edit(edit: Edit) -> str:
    """Return an edit in a few words, printable and cut."""
    match edit:
        case HeaderAdded(name, value):
            return f"add_header({_cut(name)}: {_cut(value)})"
        case HeaderInserted(index, name, value):
            return f"insert_header({index}, {_cut(name)}: {_cut(value)})"
        case HeaderChanged(name, index, None):
            return f"delete_header({_cut(name)}, {index})"
        case HeaderChanged(name, index, value):
            return f"change_header({_cut(name)}, {index}: {_cut(value)})"
        case SenderChanged(address, params):
            return f"change_sender({_cut(_joined(address, params))})"
        case RecipientAdded(address, params):
            return f"add_recipient({_cut(_joined(address, params))})"
        case RecipientDeleted(address):
            return f"delete_recipient({_cut(address)})"
        case Quarantined(reason):
            return f"quarantine({_cut(reason)})"
        case BodyReplaced(body):
            return f"replace_body({len(body)} bytes)"


def _joined(address: str, params: str | None) -> str:
    return f"{address} {params}" if params else address


def _cut(text: str | None) -> str:
    return cut_text((text or "").strip(), _TEXT_BYTES) or ""


def _as_text(record: Mapping[str, object], lists: Sequence[str]) -> str:
    stage = record["stage"]
    parts = [f"dry run of {record['dry_run']}: {record['verdict']} at {stage}"]
    if "fault" in record:
        parts.append("after a fault")
    if "reply" in record:
        parts.append(f"({record['reply']})")
    parts += lists
    return " ".join(parts)


def _list(name: str, shown: Sequence[str], count: int) -> str:
    more = f", and {count - len(shown)} more" if count > len(shown) else ""
    return f"{name}=[{', '.join(shown)}{more}]"
