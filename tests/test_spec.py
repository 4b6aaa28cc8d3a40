"""The tables of the protocol: complete, free of contradictions, and the same as the codecs."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from aiomilter import spec
from aiomilter.spec import (
    COMMAND_BY_LETTER,
    COMMANDS,
    IN_MESSAGE,
    MACRO_SLOTS,
    REPLIES,
    REPLY_BY_LETTER,
    Actions,
    CommandSpec,
    MacroStage,
    Options,
    ReplyKind,
    ReplySpec,
    State,
)
from aiomilter.wire.commands import DECODERS
from aiomilter.wire.replies import REPLY_DECODERS

COMMAND_LETTERS = b"ODCHMRTLNBEAUQK"
REPLY_LETTERS = b"Ocartdys4fphime+2-bq"
NOT_ANSWERED = b"DAQK"


def command_id(row: CommandSpec) -> str:
    return row.name


def reply_id(row: ReplySpec) -> str:
    return row.name


def all_bits(flags: Iterable[int]) -> int:
    total = 0
    for flag in flags:
        assert total & flag == 0, f"{flag:#x} is there twice"
        total |= flag
    return total


def test_command_letters_are_those_of_the_protocol() -> None:
    assert sorted(row.letter[0] for row in COMMANDS) == sorted(COMMAND_LETTERS)
    assert {row.letter[0]: row for row in COMMANDS} == COMMAND_BY_LETTER


def test_reply_letters_are_those_of_the_protocol() -> None:
    assert sorted(row.letter[0] for row in REPLIES) == sorted(REPLY_LETTERS)
    assert {row.letter[0]: row for row in REPLIES} == REPLY_BY_LETTER


def test_names_and_tokens_are_given_once() -> None:
    for column in ("name", "libmilter"):
        for rows in (COMMANDS, REPLIES):
            values = [getattr(row, column) for row in rows]
            assert len(values) == len(set(values)), column


def test_every_command_has_a_codec_and_every_codec_a_row() -> None:
    assert DECODERS.keys() == COMMAND_BY_LETTER.keys()


def test_every_reply_has_a_codec_and_every_codec_a_row() -> None:
    assert REPLY_DECODERS.keys() == REPLY_BY_LETTER.keys()


@pytest.mark.parametrize("row", COMMANDS, ids=command_id)
def test_a_command_is_answered_by_verdicts(row: CommandSpec) -> None:
    kinds = {REPLY_BY_LETTER[letter[0]].kind for letter in row.replies}
    if row.letter in NOT_ANSWERED:
        assert kinds == set()
    elif row.letter == b"O":
        assert kinds == {ReplyKind.NEGOTIATION}
    else:
        assert kinds == {ReplyKind.VERDICT}
        assert (b"s" in row.replies) == (row.letter == b"B")


@pytest.mark.parametrize("row", COMMANDS, ids=command_id)
def test_bits_of_a_stage_are_named_after_it(row: CommandSpec) -> None:
    name = row.name.upper()
    if row.no_option is None:
        assert row.no_reply_option is None
    else:
        assert row.no_option.name == f"NO_{name}"
        assert row.no_reply_option is not None
        assert row.no_reply_option.name == f"NO_REPLY_{name}"
    if row.macro_stage is not None:
        assert row.macro_stage.name == name


@pytest.mark.parametrize("row", COMMANDS, ids=command_id)
def test_a_command_leads_to_a_state_of_its_own(row: CommandSpec) -> None:
    assert [other.name for other in COMMANDS if other.target == row.target] == [row.name]
    assert row.follows <= set(State)


def test_every_state_but_the_first_is_that_of_a_command() -> None:
    assert {row.target for row in COMMANDS} - {None} == set(State) - {State.INIT}


def test_states_are_numbered_as_in_libmilter() -> None:
    assert [state.name for state in State] == [
        "INIT",
        "NEGOTIATION",
        "CONNECT",
        "HELO",
        "MAIL",
        "RCPT",
        "DATA",
        "HEADER",
        "EOH",
        "BODY",
        "EOM",
        "QUIT",
        "ABORT",
        "UNKNOWN",
        "QUIT_NC",
    ]
    assert [int(state) for state in State] == list(range(15))


def test_a_message_lasts_from_mail_to_the_last_state_before_its_end() -> None:
    assert list(IN_MESSAGE) == [
        State.MAIL,
        State.RCPT,
        State.DATA,
        State.HEADER,
        State.EOH,
        State.BODY,
    ]


# The direct successors as libmilter has them, written from the other side: `follows` names
# predecessors.
SUCCESSORS = {
    "INIT": "NEGOTIATION",
    "NEGOTIATION": "CONNECT UNKNOWN",
    "CONNECT": "HELO MAIL UNKNOWN",
    "HELO": "HELO MAIL UNKNOWN",
    "MAIL": "RCPT ABORT UNKNOWN",
    "RCPT": "RCPT DATA HEADER EOH BODY EOM ABORT UNKNOWN",
    "DATA": "HEADER EOH ABORT",
    "HEADER": "HEADER EOH ABORT",
    "EOH": "BODY EOM ABORT",
    "BODY": "BODY EOM ABORT",
    "EOM": "MAIL UNKNOWN QUIT QUIT_NC",
    "QUIT": "",
    "ABORT": "",
    "UNKNOWN": "HELO MAIL RCPT DATA BODY ABORT UNKNOWN QUIT QUIT_NC",
    "QUIT_NC": "CONNECT UNKNOWN",
}


@pytest.mark.parametrize("name", SUCCESSORS)
def test_direct_successors_are_those_of_libmilter(name: str) -> None:
    state = State[name]
    successors = {
        row.target.name for row in COMMANDS if row.target is not None and state in row.follows
    }
    assert successors == set(SUCCESSORS[name].split())


def test_macros_may_come_at_any_time() -> None:
    macro = COMMAND_BY_LETTER[ord("D")]
    assert macro.target is None
    assert macro.follows == set(State)


def test_payload_is_needed_where_libmilter_needs_it() -> None:
    assert b"".join(row.letter for row in COMMANDS if not row.needs_payload) == b"TNEAQK"


def test_stages_with_macros_are_complete() -> None:
    stages = [row.macro_stage for row in COMMANDS if row.macro_stage is not None]
    assert sorted(stages) == sorted(MacroStage)


def test_macro_slots_are_in_the_order_of_events() -> None:
    # libmilter keeps the macros of EOH ahead of those of EOM, although it numbers the stages of
    # macro requests the other way round.
    assert MACRO_SLOTS == {67: 0, 72: 1, 77: 2, 82: 3, 84: 4, 78: 5, 69: 6}
    letters = {row.letter[0] for row in COMMANDS if row.macro_stage is not None}
    assert MACRO_SLOTS.keys() == letters
    assert [stage.name for stage in MacroStage] == [
        "CONNECT",
        "HELO",
        "MAIL",
        "RCPT",
        "DATA",
        "EOM",
        "EOH",
    ]
    assert [int(stage) for stage in MacroStage] == list(range(7))


def test_action_bits_are_those_of_version_6() -> None:
    assert all_bits(int(action) for action in Actions) == 0x1FF == spec.ALL_ACTIONS
    assert spec.ACTIONS_OF_VERSION_1 == 0x0F


def test_option_bits_are_those_of_version_6() -> None:
    bits = all_bits(int(option) for option in Options)
    assert bits & ~spec.INTERNAL_OPTIONS == 0x1FFFFF == spec.ALL_OPTIONS
    assert bits & spec.INTERNAL_OPTIONS == 0x30000000
    assert spec.INTERNAL_OPTIONS == 0x70000000
    assert spec.OPTIONS_OF_VERSION_1 == 0x3F


def test_options_of_the_stages_are_complete() -> None:
    no_options = all_bits(int(row.no_option) for row in COMMANDS if row.no_option is not None)
    no_replies = all_bits(
        int(row.no_reply_option) for row in COMMANDS if row.no_reply_option is not None
    )
    assert no_options == 0x37F
    assert no_replies == 0x0FF080 == spec.NO_REPLY_OPTIONS
    assert no_options | no_replies | 0x100C00 == spec.ALL_OPTIONS


# Some bits by hand, so that a row that moved is seen and not only that all bits are there.
@pytest.mark.parametrize(
    ("option", "bit"),
    [
        (Options.NO_CONNECT, 0x1),
        (Options.NO_HELO, 0x2),
        (Options.NO_MAIL, 0x4),
        (Options.NO_RCPT, 0x8),
        (Options.NO_BODY, 0x10),
        (Options.NO_HEADER, 0x20),
        (Options.NO_EOH, 0x40),
        (Options.NO_REPLY_HEADER, 0x80),
        (Options.NO_UNKNOWN, 0x100),
        (Options.NO_DATA, 0x200),
        (Options.SKIP, 0x400),
        (Options.REJECTED_RECIPIENTS, 0x800),
        (Options.NO_REPLY_CONNECT, 0x1000),
        (Options.NO_REPLY_HELO, 0x2000),
        (Options.NO_REPLY_MAIL, 0x4000),
        (Options.NO_REPLY_RCPT, 0x8000),
        (Options.NO_REPLY_DATA, 0x10000),
        (Options.NO_REPLY_UNKNOWN, 0x20000),
        (Options.NO_REPLY_EOH, 0x40000),
        (Options.NO_REPLY_BODY, 0x80000),
        (Options.LEADING_SPACE, 0x100000),
    ],
)
def test_option_has_the_bit_of_libmilter(option: Options, bit: int) -> None:
    assert int(option) == bit


@pytest.mark.parametrize("row", REPLIES, ids=reply_id)
def test_an_edit_needs_an_action_and_nothing_else_does(row: ReplySpec) -> None:
    assert (row.action is not None) == (row.kind is ReplyKind.EDIT)
    if row.kind is ReplyKind.EDIT:
        assert row.has_payload


def test_every_action_on_a_message_is_that_of_an_edit() -> None:
    used = {row.action for row in REPLIES} - {None}
    # Asking for macros is done in the answer to the offer, not by an edit.
    assert used == set(Actions) - {Actions.REQUEST_MACROS}


def test_only_a_reply_code_is_a_verdict_with_payload() -> None:
    verdicts = [row for row in REPLIES if row.kind is ReplyKind.VERDICT and row.has_payload]
    assert [row.letter for row in verdicts] == [b"y"]


def test_nothing_is_newer_than_the_protocol() -> None:
    since = [row.since for row in COMMANDS] + [row.since for row in REPLIES]
    assert min(since) >= 1
    assert max(since) <= spec.VERSION == 6
    assert spec.VERSION_MIN == 2


def test_sizes_are_those_of_libmilter() -> None:
    assert spec.MAX_PAYLOAD_BYTES == spec.BODY_CHUNK_BYTES == 65_535
    assert spec.MAX_PAYLOAD_BYTES_256K == 262_143
    assert spec.MAX_PAYLOAD_BYTES_1M == 1_048_575
    assert (spec.MAX_REPLY_LINES, spec.MAX_REPLY_LINE_BYTES) == (32, 980)
    assert spec.MAX_HEADER_INDEX == 2_147_483_647
    assert spec.MAX_UNIX_PATH_BYTES == 107
    assert 13 <= spec.MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION < spec.MAX_PAYLOAD_BYTES
