"""What a case expects beside what came: nothing that differs goes unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiomilter.testing.servers import Delivery, HeldMessage, load_case
from aiomilter.testing.servers.case import Expected
from aiomilter.testing.servers.comparison import compare_delivery, compare_held, compare_notes
from aiomilter.testing.servers.template import Pattern, Wildcard

NAMES: dict[str, object] = {"any": Wildcard.ANY}
EXPECTED = """\
from <a@src.example>
to <b@dst.example>
to <c@dst.example> NOTIFY=NEVER

Received: {{any}}
Subject: x

body
"""


def expected(tmp_path: Path, text: str = EXPECTED, section: str = "delivered") -> Expected:
    (tmp_path / "x.case").write_text(f"It holds.\n\n== smtp\n== {section}\n{text}")
    return load_case(tmp_path / "x.case").expected[0][1]


def delivery(**changes: object) -> Delivery:
    made = Delivery(
        "<a@src.example>",
        ["SIZE=12", "BODY=8BITMIME"],
        ["<b@dst.example>", "<c@dst.example>"],
        {
            "<b@dst.example>": ["ORCPT=rfc822;b@dst.example"],
            "<c@dst.example>": ["NOTIFY=NEVER"],
        },
        b"Received: by x\r\n\tid 1\r\nSubject: x\r\n\r\nbody\r\n",
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_what_is_as_expected_has_no_difference(tmp_path: Path) -> None:
    assert compare_delivery(expected(tmp_path), delivery(), NAMES) == ""


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"sender": "<x@src.example>"}, "- from <a@src.example>\n+ from <x@src.example>"),
        ({"sender_params": ["RET=HDRS"]}, "+ from <a@src.example> RET=HDRS"),
        ({"recipients": ["<b@dst.example>"]}, "- to <c@dst.example> NOTIFY=NEVER"),
        (
            {"recipient_params": {"<b@dst.example>": [], "<c@dst.example>": []}},
            "- to <c@dst.example> NOTIFY=NEVER\n+ to <c@dst.example>",
        ),
        (
            {"recipient_params": {"<b@dst.example>": ["ORCPT=rfc822;z@x"], "<c@dst.example>": []}},
            "+ to <b@dst.example> ORCPT=rfc822;z@x",
        ),
        ({"content": b"Subject: x\r\n\r\nbody\r\n"}, "- Received: {{any}}\n  Subject: x"),
        (
            {"content": b"Received: y\r\nSubject: x\r\nSubject: x\r\n\r\nbody\r\n"},
            "  Subject: x\n+ Subject: x",
        ),
        ({"content": b"Received: y\r\nSubject: x\r\n\r\nbody"}, "  body"),
        ({"content": b"Received: y\r\nSubject: x\r\n\r\nbody\xff\r\n"}, "- body\n+ body\\xff"),
    ],
)
def test_every_difference_is_seen_and_shown(
    tmp_path: Path, change: dict[str, object], shown: str
) -> None:
    assert shown in compare_delivery(expected(tmp_path), delivery(**change), NAMES)


def test_what_is_held(tmp_path: Path) -> None:
    text = "from <a@src.example>\nto <b@dst.example>\nreason looks {{any}}\n"
    wanted = expected(tmp_path, text, "held")
    held = HeldMessage("Q1", "a@src.example", ("b@dst.example",), "looks odd")
    other = HeldMessage("Q2", "z@src.example", ("b@dst.example",), None)
    assert compare_held([wanted], [held], NAMES) == []
    assert "no message from <a@src.example> is held" in compare_held([wanted], [], NAMES)[0]
    assert "held without being expected" in compare_held([], [other], NAMES)[0]
    without = HeldMessage("Q1", "a@src.example", ("b@dst.example",), None)
    assert compare_held([wanted], [without], NAMES) == []  # Postfix keeps no reason
    wrong = HeldMessage("Q1", "a@src.example", ("b@dst.example",), "smells")
    assert "it is held for 'smells'" in compare_held([wanted], [wrong], NAMES)[0]


def test_notes_agree_in_number_and_order() -> None:
    one, two = Pattern((b"one ", Wildcard.ANY)), Pattern((b"two",))
    assert compare_notes([one, two], [b"one 1", b"two"]) == []
    assert compare_notes([one, two], [b"two", b"one 1"])[0].endswith("- two")
    assert compare_notes([one], [b"one 1", b"one 2"])[0].endswith("  one 1\n+ one 2")
    assert compare_notes([one], []) == ["what the milter notes differs\n- one {{any}}"]
