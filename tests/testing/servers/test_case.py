"""Case files: read whole, and refused with the line and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiomilter.testing.servers import CaseError, Mta, load_case, load_cases
from aiomilter.testing.servers.case import Action, Case

CASE = """\
One thing holds.

Prose that explains it.

== settings
only: postfix, the other one cannot
milter: inet
milter: process
postfix: milter_default_action = accept
sendmail: F =

== milter
class Plain(Milter):
    pass

== message
Subject: x

body

== smtp
# a remark
C: EHLO client.example
S: 250
S sendmail: 250-a
do postfix: disconnect
C:

== delivered
from <a@src.example> RET=HDRS
to <b@dst.example>
to <c@dst.example>

Received: {{any}}
Subject: x

body

== held sendmail
from <>
to <b@dst.example>
reason why

== notes
one

two
== notes postfix
three
"""


def read(tmp_path: Path, text: str) -> Case:
    path = tmp_path / "theme" / "name.case"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return load_case(path)


def test_a_case_with_everything(tmp_path: Path) -> None:
    case = read(tmp_path, CASE)
    assert (case.name, case.title) == ("theme/name", "One thing holds.")
    settings = case.settings
    assert (settings.only, settings.because) == (Mta.POSTFIX, "the other one cannot")
    assert (settings.over, settings.own_process) == ("inet", True)
    assert settings.of_server == {
        Mta.POSTFIX: {"milter_default_action": "accept"},
        Mta.SENDMAIL: {"F": ""},
    }
    assert case.servers == (Mta.POSTFIX,)
    assert case.milter == "class Plain(Milter):\n    pass"
    assert case.milter_line == CASE.splitlines().index("class Plain(Milter):") + 1
    assert case.message is not None
    assert case.message.text == "Subject: x\r\n\r\nbody\r\n"
    assert [(step.action, step.text.text) for step in case.steps_for(Mta.POSTFIX)] == [
        (Action.SEND, "EHLO client.example"),
        (Action.EXPECT, "250"),
        (Action.DO, "disconnect"),
        (Action.SEND, ""),
    ]
    assert [step.text.text for step in case.steps_for(Mta.SENDMAIL)][2] == "250-a"
    (delivered,) = case.expected_of(Mta.POSTFIX)
    assert delivered.sender.text == "<a@src.example> RET=HDRS"
    assert [one.text for one in delivered.recipients] == ["<b@dst.example>", "<c@dst.example>"]
    assert delivered.content.text == "Received: {{any}}\r\nSubject: x\r\n\r\nbody\r\n"
    _, held = case.expected_of(Mta.SENDMAIL)
    assert held.is_held
    assert held.reason is not None
    assert (held.reason.text, held.content.text) == ("why", "")
    for kind, texts in ((Mta.POSTFIX, ["one", "two", "three"]), (Mta.SENDMAIL, ["one", "two"])):
        notes = case.notes_of(kind)
        assert notes is not None
        assert [note.text for note in notes] == texts


def test_what_may_be_left_out(tmp_path: Path) -> None:
    case = read(tmp_path, "It holds.\n\n== smtp\nC: NOOP\n")
    assert case.servers == tuple(Mta)
    assert (case.milter, case.message, case.expected, case.notes) == ("", None, (), ())
    assert case.notes_of(Mta.POSTFIX) is None


def test_an_empty_section_of_notes_says_that_there_are_none(tmp_path: Path) -> None:
    assert read(tmp_path, "It holds.\n\n== smtp\n\n== notes\n").notes_of(Mta.POSTFIX) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1: a case begins with a line that says what holds, and an empty one"),
        ("\n== smtp\n", "1: a case begins with"),
        ("Two\nlines\n\n== smtp\n", "1: a case begins with"),
        ("It holds.\n", '1: there is no section "== smtp"'),
        ("It holds.\n\n== smpt\n", "3: '== smpt' is no heading: write == and one of delivered, "),
        ("It holds.\n\n== smtp\n== smtp\n", "4: a second section 'smtp'"),
        ("It holds.\n\n== smtp postfix\n", "3: a section 'smtp' is for both servers"),
        ("It holds.\n\n== smtp\n== notes exim\n", "4: 'exim' is no mail server: postfix, sendmail"),
        ("It holds.\n\n== smtp\nNOOP\n", "4: 'NOOP' is no step: it begins with C:, S: or do:"),
        ("It holds.\n\n== settings\nonly: postfix\n== smtp\n", "4: say why: only: postfix, "),
        ("It holds.\n\n== settings\nfoo: bar\n== smtp\n", "4: 'foo: bar' is no setting: "),
        ("It holds.\n\n== smtp\n== delivered\nfor <a>\n", "5: 'for <a>' is neither from ... nor "),
        ("It holds.\n\n== smtp\n== delivered\nto <a>\n", '5: a message has a line "from ..." and'),
        (
            "It holds.\n\n== smtp\n== delivered\nfrom <a>\nto <a>\nreason x\n",
            "7: only what is held has a reason",
        ),
    ],
)
def test_what_is_no_case_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(CaseError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/theme/name.case:{complaint}")


def test_other_bytes_than_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.case").write_bytes(b"\xff\n\n== smtp\n")
    with pytest.raises(CaseError, match="not in UTF-8"):
        load_case(tmp_path / "x.case")


def test_a_folder_without_a_case_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="there is no case"):
        load_cases(tmp_path)


def test_cases_come_by_name(tmp_path: Path) -> None:
    for name in ("b/x", "a/y", "a/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.case").write_text("It holds.\n\n== smtp\n")
    assert [case.name for case in load_cases(tmp_path)] == ["a/x", "a/y", "b/x"]
