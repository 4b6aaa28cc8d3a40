"""Replies of the wire as edits."""

from __future__ import annotations

import pytest

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
    edit_of,
)
from aiomilter.wire import replies
from aiomilter.wire.replies import MilterReply

CASES: list[tuple[MilterReply, Edit]] = [
    (replies.AddHeader(b"A", b"gr\xc3\xbc\xe9"), HeaderAdded("A", "grü\udce9")),
    (replies.AddHeader(b"A", b""), HeaderAdded("A", "")),
    (replies.InsertHeader(2, b"A", b"b"), HeaderInserted(2, "A", "b")),
    (replies.ChangeHeader(3, b"A", b"b"), HeaderChanged("A", 3, "b")),
    (replies.ChangeHeader(3, b"A", b""), HeaderChanged("A", 3, None)),
    (replies.ChangeSender(b"<a@b>"), SenderChanged("<a@b>")),
    (replies.ChangeSender(b"<a@b>", b""), SenderChanged("<a@b>", "")),
    (replies.ChangeSender(b"<a@b>", b"RET=HDRS"), SenderChanged("<a@b>", "RET=HDRS")),
    (replies.AddRecipient(b"<\xc3\xbc@b>"), RecipientAdded("<ü@b>")),
    (replies.AddRecipientWithParams(b"a", None), RecipientAdded("a")),
    (replies.AddRecipientWithParams(b"a", b"NOTIFY=NEVER"), RecipientAdded("a", "NOTIFY=NEVER")),
    (replies.DeleteRecipient(b"a"), RecipientDeleted("a")),
    (replies.ReplaceBody(b"a\xe9\r\n"), BodyReplaced(b"a\xe9\r\n")),
    (replies.Quarantine(b"odd \xe9"), Quarantined("odd \udce9")),
]


@pytest.mark.parametrize(("reply", "edit"), CASES, ids=lambda value: type(value).__name__)
def test_what_a_reply_asks_for(reply: MilterReply, edit: Edit) -> None:
    assert edit_of(reply) == edit


@pytest.mark.parametrize("reply", [replies.Continue(), replies.Progress(), replies.ReplyCode(b"4")])
def test_another_reply_is_no_edit(reply: MilterReply) -> None:
    with pytest.raises(TypeError, match=f"{type(reply).__name__} is no edit"):
        edit_of(reply)


def test_a_new_body_is_shown_by_its_beginning() -> None:
    assert repr(BodyReplaced(b"a\r\n")) == r"BodyReplaced(body=b'a\r\n')"
    shown = repr(BodyReplaced(b"x" * 12_345))
    assert shown.startswith("BodyReplaced(body=b'xxx")
    assert shown.endswith("'... (12,345 bytes))")
    assert len(shown) < 300
