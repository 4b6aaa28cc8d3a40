"""Every edit that a milter can make, as the recipient gets it from Postfix."""

from collections.abc import Callable

import pytest

from aiomilter import EomActions, Milter
from tests.integration.rig import Rig
from tests.integration.sink import Delivery

pytestmark = pytest.mark.xdist_group("postfix")

MESSAGE = (
    b"From: a@src.example\r\n"
    b"Subject: hello\r\n"
    b"X-Dup: one\r\n"
    b"X-Dup: two\r\n"
    b"x-dup: three\r\n"
    b"To: b@dst.example\r\n"
    b"\r\n"
    b"first line\r\n"
    b"second line\r\n"
)
HEADERS = MESSAGE.partition(b"\r\n\r\n")[0].split(b"\r\n")
BODY = MESSAGE.partition(b"\r\n\r\n")[2]


async def edited(rig: Rig, edit: Callable[[EomActions], None], listener: str = "unix") -> Delivery:
    """Send the message through a milter that makes one edit, and return what is delivered."""

    class Editor(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            edit(actions)

    async with rig.session(Editor, listener) as smtp:
        reply = await smtp.message(MESSAGE, recipients=["b@dst.example", "c@dst.example"])
    assert reply.code == 250
    return await rig.delivery(reply)


def assert_unedited(delivery: Delivery, *, headers: bool = True, body: bool = True) -> None:
    """Check that what was not edited is as it was sent."""
    assert delivery.sender == "<a@src.example>"
    assert delivery.recipients == ["<b@dst.example>", "<c@dst.example>"]
    assert not headers or delivery.own_header_lines == HEADERS
    assert not body or delivery.body == BODY


async def test_no_edit(rig: Rig) -> None:
    assert_unedited(await edited(rig, lambda actions: None))


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_an_added_header_comes_last(rig: Rig, listener: str) -> None:
    delivery = await edited(rig, lambda actions: actions.add_header("X-New", "value"), listener)
    assert delivery.own_header_lines == [*HEADERS, b"X-New: value"]
    assert_unedited(delivery, headers=False)


async def test_an_added_header_may_be_folded_and_empty(rig: Rig) -> None:
    def edit(actions: EomActions) -> None:
        actions.add_header("X-Fold", "a;\n\tb;\n c")
        actions.add_header("X-Empty", "")

    delivery = await edited(rig, edit)
    assert delivery.own_header_lines[-2] == b"X-Fold: a;\r\n\tb;\r\n c"
    assert delivery.own_header_lines[-1].rstrip() == b"X-Empty:"
    assert_unedited(delivery, headers=False)


async def test_a_header_inserted_at_0_stands_above_postfix_own_trace_field(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.insert_header(0, "X-Top", "value"))
    assert delivery.header_lines[0] == b"X-Top: value"
    assert delivery.header_lines[1].startswith(b"Received: ")
    assert delivery.header_lines[2:] == HEADERS
    assert_unedited(delivery, headers=False)


async def test_a_header_inserted_at_1_stands_below_postfix_own_trace_field(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.insert_header(1, "X-Top", "value"))
    assert delivery.header_lines[0].startswith(b"Received: ")
    assert delivery.header_lines[1:] == [b"X-Top: value", *HEADERS]
    assert_unedited(delivery, headers=False)


async def test_a_changed_header_keeps_its_place(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.change_header("subject", 1, "changed"))
    # The name is written as the milter spells it.
    assert delivery.own_header_lines == [HEADERS[0], b"subject: changed", *HEADERS[2:]]
    assert_unedited(delivery, headers=False)


async def test_one_of_several_headers_of_a_name_is_changed(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.change_header("X-Dup", 3, "III"))
    assert delivery.own_header_lines == [*HEADERS[:4], b"X-Dup: III", HEADERS[5]]


async def test_one_of_several_headers_of_a_name_is_deleted(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.change_header("X-Dup", 2, None))
    assert delivery.own_header_lines == [*HEADERS[:3], *HEADERS[4:]]
    assert_unedited(delivery, headers=False)


async def test_changing_a_header_that_is_missing_appends_it(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.change_header("X-None", 1, "new"))
    assert delivery.own_header_lines == [*HEADERS, b"X-None: new"]


async def test_deleting_a_header_that_is_missing_does_nothing(rig: Rig) -> None:
    assert_unedited(await edited(rig, lambda actions: actions.change_header("X-None", 1, None)))


@pytest.mark.parametrize("address", ["<new@src.example>", "new@src.example"])
async def test_the_sender_is_changed(rig: Rig, address: str) -> None:
    delivery = await edited(rig, lambda actions: actions.change_sender(address))
    assert delivery.sender == "<new@src.example>"
    assert delivery.own_header_lines == HEADERS


async def test_the_sender_is_changed_with_parameters(rig: Rig) -> None:
    delivery = await edited(
        rig, lambda actions: actions.change_sender("<new@src.example>", "ENVID=abc123 RET=HDRS")
    )
    assert delivery.sender == "<new@src.example>"
    assert {"ENVID=abc123", "RET=HDRS"} <= set(delivery.sender_params)


async def test_the_sender_is_emptied(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.change_sender("<>"))
    assert delivery.sender == "<>"


async def test_a_recipient_is_added(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.add_recipient("<new@dst.example>"))
    assert set(delivery.recipients) == {"<b@dst.example>", "<c@dst.example>", "<new@dst.example>"}
    assert delivery.own_header_lines == HEADERS


async def test_a_recipient_is_added_with_parameters(rig: Rig) -> None:
    delivery = await edited(
        rig, lambda actions: actions.add_recipient("<new@dst.example>", "NOTIFY=NEVER")
    )
    assert "NOTIFY=NEVER" in delivery.recipient_params["<new@dst.example>"]
    assert "NOTIFY=NEVER" not in delivery.recipient_params["<b@dst.example>"]


async def test_a_recipient_is_removed(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.delete_recipient("<b@dst.example>"))
    assert delivery.recipients == ["<c@dst.example>"]


async def test_the_body_is_replaced(rig: Rig) -> None:
    delivery = await edited(rig, lambda actions: actions.replace_body(b"new\r\n.\r\nend\r\n"))
    assert delivery.body == b"new\r\n.\r\nend\r\n"
    assert_unedited(delivery, body=False)


# Over one packet of 65535 bytes, in lines that do not divide it.
LARGE_BODY = b"".join(b"%07d %s\r\n" % (number, b"x" * 70) for number in range(4000))


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_the_body_is_replaced_by_one_of_several_packets(rig: Rig, listener: str) -> None:
    delivery = await edited(rig, lambda actions: actions.replace_body(LARGE_BODY), listener)
    assert delivery.body == LARGE_BODY
    assert_unedited(delivery, body=False)


async def test_the_body_is_replaced_in_pieces_with_other_edits_between(rig: Rig) -> None:
    """Postfix refuses a message if other edits stand between body packets, so they leave as one."""

    def edit(actions: EomActions) -> None:
        actions.replace_body(LARGE_BODY[:100])
        actions.add_header("X-First", "1")
        actions.replace_body(LARGE_BODY[100:150_001])
        actions.add_recipient("<new@dst.example>")
        actions.replace_body(LARGE_BODY[150_001:])
        actions.add_header("X-Second", "2")

    delivery = await edited(rig, edit)
    assert delivery.body == LARGE_BODY
    assert delivery.own_header_lines == [*HEADERS, b"X-First: 1", b"X-Second: 2"]
    assert "<new@dst.example>" in delivery.recipients


@pytest.mark.parametrize("listener", ["unix", "inet"])
async def test_all_edits_together(rig: Rig, listener: str) -> None:
    def edit(actions: EomActions) -> None:
        actions.change_header("X-Dup", 1, "ONE")
        actions.change_header("X-Dup", 2, None)
        actions.add_header("X-Last", "z")
        actions.insert_header(0, "X-Top", "a")
        actions.change_sender("<new@src.example>")
        actions.add_recipient("<new@dst.example>")
        actions.delete_recipient("<b@dst.example>")
        actions.replace_body(b"another body\r\n")

    delivery = await edited(rig, edit, listener)
    assert delivery.sender == "<new@src.example>"
    assert delivery.recipients == ["<c@dst.example>", "<new@dst.example>"]
    assert delivery.header_lines[0] == b"X-Top: a"
    assert delivery.header_lines[1].startswith(b"Received: ")
    assert delivery.header_lines[2:] == [
        *HEADERS[:2],
        b"X-Dup: ONE",
        *HEADERS[4:],
        b"X-Last: z",
    ]
    assert delivery.body == b"another body\r\n"


async def test_a_quarantined_message_is_held_and_released_as_edited(rig: Rig) -> None:
    class Keeper(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Held", "yes")
            actions.quarantine("looks odd")

    async with rig.session(Keeper) as smtp:
        reply = await smtp.message(MESSAGE)
    assert reply.code == 250
    held = (await rig.postfix.held())[reply.queue_id]
    assert (held.sender, held.recipients) == ("a@src.example", ("b@dst.example",))
    # Postfix does not keep the reason, it only says that there was one.
    await rig.postfix.log_line(f"{reply.queue_id}: milter-hold: END-OF-MESSAGE")
    assert rig.sink.count(reply.queue_id) == 0
    await rig.postfix.release(reply.queue_id)
    delivery = await rig.delivery(reply)
    assert delivery.own_header_lines == [*HEADERS, b"X-Held: yes"]
    assert delivery.body == BODY
