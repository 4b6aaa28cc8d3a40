"""The edits of a message: their bytes, their order, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aiomilter import ActionNotNegotiated, Actions, EomActions, LocalProtocolError
from tests.mta import packet, split_packets

ALL = 0x1FF
Edit = Callable[[EomActions], None]


class Line:
    """Where progress goes."""

    def __init__(self) -> None:
        self.sent = 0

    async def send_progress(self) -> None:
        self.sent += 1


def eom_actions(agreed: int = ALL) -> EomActions:
    return EomActions(agreed, Line().send_progress)


# name, needed action, the edit, its packets by hand
EDITS: list[tuple[str, Actions, Edit, bytes]] = [
    (
        "add_header",
        Actions.ADD_HEADER,
        lambda a: a.add_header("X-A", "b c"),
        b"\0\0\0\x09hX-A\0b c\0",
    ),
    (
        "add_header with an empty value",
        Actions.ADD_HEADER,
        lambda a: a.add_header("X-A", ""),
        b"\0\0\0\x06hX-A\0\0",
    ),
    (
        "insert_header",
        Actions.ADD_HEADER,
        lambda a: a.insert_header(0, "X-A", "b"),
        b"\0\0\0\x0bi\0\0\0\0X-A\0b\0",
    ),
    (
        "insert_header at the last index",
        Actions.ADD_HEADER,
        lambda a: a.insert_header(2**31 - 1, "X-A", "b"),
        b"\0\0\0\x0bi\x7f\xff\xff\xffX-A\0b\0",
    ),
    (
        "change_header",
        Actions.CHANGE_HEADER,
        lambda a: a.change_header("X-A", 2, "b"),
        b"\0\0\0\x0bm\0\0\0\x02X-A\0b\0",
    ),
    (
        "change_header deletes",
        Actions.CHANGE_HEADER,
        lambda a: a.change_header("X-A", 1, None),
        b"\0\0\0\x0am\0\0\0\x01X-A\0\0",
    ),
    (
        "change_sender",
        Actions.CHANGE_SENDER,
        lambda a: a.change_sender("<>"),
        b"\0\0\0\x04e<>\0",
    ),
    (
        "change_sender with parameters",
        Actions.CHANGE_SENDER,
        lambda a: a.change_sender("<a@b>", "RET=HDRS"),
        b"\0\0\0\x10e<a@b>\0RET=HDRS\0",
    ),
    (
        "change_sender with several parameters",
        Actions.CHANGE_SENDER,
        lambda a: a.change_sender("<a@b>", ["A=1", "B=2"]),
        b"\0\0\0\x0fe<a@b>\0A=1 B=2\0",
    ),
    (
        "change_sender with no parameters but a list of them",
        Actions.CHANGE_SENDER,
        lambda a: a.change_sender("<a@b>", []),
        b"\0\0\0\x08e<a@b>\0\0",
    ),
    (
        "add_recipient",
        Actions.ADD_RECIPIENT,
        lambda a: a.add_recipient("<a@b>"),
        b"\0\0\0\x07+<a@b>\0",
    ),
    (
        "add_recipient with parameters",
        Actions.ADD_RECIPIENT_WITH_PARAMS,
        lambda a: a.add_recipient("<a@b>", "NOTIFY=NEVER"),
        b"\0\0\0\x142<a@b>\0NOTIFY=NEVER\0",
    ),
    (
        "delete_recipient",
        Actions.DELETE_RECIPIENT,
        lambda a: a.delete_recipient("<a@b>"),
        b"\0\0\0\x07-<a@b>\0",
    ),
    (
        "replace_body",
        Actions.REPLACE_BODY,
        lambda a: a.replace_body(b"x\r\n"),
        b"\0\0\0\x04bx\r\n",
    ),
    ("replace_body, empty", Actions.REPLACE_BODY, lambda a: a.replace_body(b""), b"\0\0\0\x01b"),
    (
        "quarantine",
        Actions.QUARANTINE,
        lambda a: a.quarantine("why not"),
        b"\0\0\0\x09qwhy not\0",
    ),
]
edits = pytest.mark.parametrize(
    ("action", "edit", "wire"), [case[1:] for case in EDITS], ids=[case[0] for case in EDITS]
)


@edits
def test_an_edit_is_one_packet(action: Actions, edit: Edit, wire: bytes) -> None:
    actions = eom_actions(action)  # and needs no other action
    edit(actions)
    assert actions.close() == wire


@edits
def test_an_edit_that_was_not_agreed_is_refused(action: Actions, edit: Edit, wire: bytes) -> None:
    del wire
    actions = eom_actions(ALL & ~action)
    with pytest.raises(ActionNotNegotiated, match=str(action.name)) as caught:
        edit(actions)
    assert caught.value.action == action.name
    assert actions.close() == b""


@edits
def test_an_edit_after_the_handler_has_returned_is_refused(
    action: Actions, edit: Edit, wire: bytes
) -> None:
    del action, wire
    actions = eom_actions()
    actions.close()
    with pytest.raises(LocalProtocolError, match="on_eom has returned"):
        edit(actions)
    assert actions.close() == b""


async def test_progress_is_sent_at_once_and_needs_no_action() -> None:
    line = Line()
    actions = EomActions(0, line.send_progress)
    await actions.progress()
    assert line.sent == 1
    actions.close()
    with pytest.raises(LocalProtocolError, match="progress comes too late"):
        await actions.progress()
    assert line.sent == 1


def test_edits_keep_their_order() -> None:
    actions = eom_actions()
    for _name, _action, edit, _wire in EDITS:
        edit(actions)
    body = [wire for _, action, _, wire in EDITS if action is Actions.REPLACE_BODY]
    empty = body.pop()  # behind another piece, it says nothing
    expected = b"".join(wire for _, _, _, wire in EDITS if wire != empty)
    assert b"".join(body) in expected  # they already stand together
    assert actions.close() == expected


def test_an_empty_piece_of_a_body_that_has_begun_is_sent_by_raw_alone() -> None:
    # To Sendmail it parts a CR and its LF.
    actions = eom_actions()
    for piece in (b"a\r", b"", b"\nb\r\n"):
        actions.replace_body(piece)
    assert split_packets(actions.close()) == [b"ba\r", b"b\nb\r\n"]
    actions = eom_actions()
    for piece in (b"a\r", b"", b"\nb\r\n"):
        actions.replace_body(piece, line_endings="raw")
    assert split_packets(actions.close()) == [b"ba\r", b"b", b"b\nb\r\n"]


def test_pieces_of_a_body_stand_together_where_the_first_one_was() -> None:
    actions = eom_actions()
    actions.add_header("A", "1")
    actions.replace_body(b"one")
    actions.add_header("B", "2")
    actions.replace_body(b"two")
    actions.add_recipient("c")
    actions.replace_body(b"three")
    assert split_packets(actions.close()) == [
        b"hA\x001\0",
        b"bone",
        b"btwo",
        b"bthree",
        b"hB\x002\0",
        b"+c\0",
    ]


def test_a_large_body_is_cut_into_chunks_without_an_empty_tail() -> None:
    actions = eom_actions()
    actions.replace_body(b"x" * (2 * 65_535))
    assert [len(one) for one in split_packets(actions.close())] == [65_536, 65_536]


def test_a_body_of_bytearray_is_copied_when_it_is_handed_over() -> None:
    actions = eom_actions()
    body = bytearray(b"before")
    actions.replace_body(bytes(body))
    body[:] = b"behind"
    assert actions.close() == packet(b"b", b"before")


def test_a_refused_edit_leaves_those_before_it() -> None:
    actions = eom_actions()
    actions.add_header("X-A", "b")
    with pytest.raises(ValueError, match="the name of a header"):
        actions.add_header("", "b")
    actions.add_header("X-C", "d")
    assert split_packets(actions.close()) == [b"hX-A\0b\0", b"hX-C\0d\0"]


HEADER_EDITS: list[Callable[[EomActions, str, str], None]] = [
    lambda a, name, value: a.add_header(name, value),
    lambda a, name, value: a.insert_header(1, name, value),
    lambda a, name, value: a.change_header(name, 1, value),
]
header_edits = pytest.mark.parametrize("edit", HEADER_EDITS, ids=["add", "insert", "change"])


@header_edits
@pytest.mark.parametrize(
    "name",
    [
        "",
        "X A",
        "X:",
        ":",
        "X-A\n",
        "X\r",
        "X\0",
        "X\t",
        " X",
        "X-\xe9",
        "X-\udcff",
        "\x7f",
        "X\x1b",
    ],
)
def test_a_bad_header_name_is_refused(
    edit: Callable[[EomActions, str, str], None], name: str
) -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match="printable ASCII without colon and blank"):
        edit(actions, name, "value")
    assert actions.close() == b""


@header_edits
@pytest.mark.parametrize(
    "value",
    [
        "v\r\nBcc: x@y",
        "v\nY: z",
        "v\n",
        "v\r",
        "v\r\n",
        "\n",
        "a\rb",
        "a\n\tb\nc",
        "a\r\n\r\n b",
        "a\r b",
        "a\n\n b",
    ],
)
def test_a_header_value_that_would_begin_another_line_is_refused(
    edit: Callable[[EomActions, str, str], None], value: str
) -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match="begin another header") as caught:
        edit(actions, "X-A", value)
    assert "\n" not in str(caught.value)
    assert actions.close() == b""


@header_edits
def test_a_header_value_with_nul_is_refused(
    edit: Callable[[EomActions, str, str], None],
) -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match="has no NUL"):
        edit(actions, "X-A", "a\0b")
    assert actions.close() == b""


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ("a;\n\tb", b"a;\n\tb"),
        ("a;\r\n b", b"a;\n b"),
        ("a\r\n b\n\tc\r\n\td", b"a\n b\n\tc\n\td"),
        ("grüße", b"gr\xc3\xbc\xc3\x9fe"),
        ("\udcff", b"\xff"),
        (" leading", b" leading"),
        ("\x1b", b"\x1b"),
    ],
)
def test_a_folded_value_leaves_with_lf_alone(value: str, wire: bytes) -> None:
    actions = eom_actions()
    actions.add_header("X-A", value)
    assert actions.close() == packet(b"h", b"X-A\0" + wire + b"\0")


@pytest.mark.parametrize("index", [-1, 2**31, 2**32])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match=f"from 0 to 2147483647, not {index}"):
        actions.insert_header(index, "X-A", "b")
    with pytest.raises(ValueError, match="the index of a header"):
        actions.change_header("X-A", index, None)
    assert actions.close() == b""


ADDRESS_EDITS: list[Callable[[EomActions, str], None]] = [
    lambda a, text: a.change_sender(text),
    lambda a, text: a.add_recipient(text),
    lambda a, text: a.add_recipient(text, "NOTIFY=NEVER"),
    lambda a, text: a.delete_recipient(text),
    lambda a, text: a.quarantine(text),
]


@pytest.mark.parametrize("edit", ADDRESS_EDITS)
@pytest.mark.parametrize("text", ["<a@b>\r\nRCPT TO:<c@d>", "a\n", "a\r", "a\0", "\n"])
def test_an_address_or_reason_with_a_line_break_or_nul_is_refused(
    edit: Callable[[EomActions, str], None], text: str
) -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match="has no CR, LF or NUL"):
        edit(actions, text)
    assert actions.close() == b""


@pytest.mark.parametrize("edit", ADDRESS_EDITS)
def test_an_empty_address_or_reason_is_refused(edit: Callable[[EomActions, str], None]) -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match="is not empty"):
        edit(actions, "")
    assert actions.close() == b""


@pytest.mark.parametrize("params", ["A\r\nB", "A\n", ["A", "B\0"]])
def test_esmtp_parameters_with_a_line_break_or_nul_are_refused(params: str | list[str]) -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match="has no CR, LF or NUL"):
        actions.change_sender("<a@b>", params)
    with pytest.raises(ValueError, match="has no CR, LF or NUL"):
        actions.add_recipient("<a@b>", params)
    assert actions.close() == b""


def test_an_edit_that_fits_no_packet_is_refused() -> None:
    actions = eom_actions()
    # 65,535 bytes of payload: the name with its NUL, the value with its.
    actions.add_header("X", "v" * (65_535 - 3))
    with pytest.raises(ValueError, match="add_header: 65536 bytes do not fit"):
        actions.add_header("X", "v" * (65_535 - 2))
    assert len(split_packets(actions.close())) == 1


def test_text_that_has_no_bytes_is_refused() -> None:
    actions = eom_actions()
    with pytest.raises(ValueError, match="no text that can be sent"):
        actions.add_header("X", "\ud800")
    assert actions.close() == b""


def test_an_error_shows_the_beginning_of_a_long_value_only() -> None:
    with pytest.raises(ValueError, match="begin another header") as caught:
        eom_actions().add_header("X", "x" * 10_000 + "\n")
    assert len(str(caught.value)) < 300


async def test_edits_may_be_made_from_several_tasks() -> None:
    actions = eom_actions()

    async def add(number: int) -> None:
        await asyncio.sleep(0)
        actions.add_header("X", str(number))

    await asyncio.gather(*map(add, range(10)))
    assert len(split_packets(actions.close())) == 10
