"""The milters of cases, and the names that cases may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiomilter import Config, Milter
from aiomilter.testing.servers import CaseError, load_case
from aiomilter.testing.servers.script import DEFAULT_MESSAGE, Script, filler


def script(tmp_path: Path, milter: str, notes: list[str] | None = None, more: str = "") -> Script:
    path = tmp_path / "x.case"
    path.write_text(f"It holds.\n\n== milter\n{milter}\n{more}\n== smtp\n", encoding="utf-8")
    return Script(load_case(path), (notes if notes is not None else []).append)


def test_a_milter_with_all_names(tmp_path: Path) -> None:
    notes: list[str] = []
    source = "class One(Milter):\n    answer = Reply(550, None, 'x')\nnote('a', 1, None)"
    made = script(tmp_path, source, notes)
    assert made.factory is not None
    assert issubclass(made.factory, Milter)
    assert notes == ["a 1 None"]
    assert made.config == Config(unix_mode=0o666)


def test_the_class_that_extends_the_others_is_the_milter(tmp_path: Path) -> None:
    made = script(tmp_path, "class Base(Milter): pass\nclass Child(Base): pass")
    assert made.factory is not None
    assert made.factory.__name__ == "Child"


def test_its_configuration(tmp_path: Path) -> None:
    made = script(tmp_path, "config = Config(handler_timeout=1)\nclass One(Milter): pass")
    assert (made.config.handler_timeout, made.config.unix_mode) == (1, 0o666)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1", "x.case:4: a case has one milter, a subclass of Milter, not 0"),
        ("class A(Milter): pass\nclass B(Milter): pass", "x.case:4: a case has one milter, a subc"),
        ("class A(Milter:", "x.case:4: the milter fails: SyntaxError"),
        ("1 / 0", "x.case:4: the milter fails: ZeroDivisionError: division by zero"),
        ("config = 5\nclass A(Milter): pass", "x.case:4: config is a Config, not 5"),
    ],
)
def test_a_milter_that_cannot_be(tmp_path: Path, source: str, complaint: str) -> None:
    with pytest.raises(CaseError) as caught:
        script(tmp_path, source)
    assert complaint in str(caught.value)


def test_a_fault_names_the_line_of_the_file(tmp_path: Path) -> None:
    made = script(tmp_path, "class One(Milter):\n    def fail(self):\n        return 1 / 0")
    assert made.factory is not None
    one: Any = made.factory()
    with pytest.raises(ZeroDivisionError) as caught:
        one.fail()
    assert caught.traceback[-1].lineno == 5  # counted from 0


@pytest.mark.parametrize("size", [2, 3, 77, 78, 79, 80, 81, 65535, 65536])
def test_filler_is_as_long_as_it_says_with_its_line_end(size: int) -> None:
    body = filler(size) + b"\r\n"
    assert len(body) == size
    assert max(len(line) for line in body.split(b"\r\n")) <= 78
    assert b"\n" not in body.replace(b"\r\n", b"")


def test_the_message_is_dotted_for_data(tmp_path: Path) -> None:
    made = script(tmp_path, "class One(Milter): pass", more="\n== message\n.a\n\n..b\n")
    assert made.content == b".a\r\n\r\n..b\r\n"
    assert made.names["content"] == b".a\r\n\r\n..b"
    assert made.names["message"] == b"..a\r\n\r\n...b\r\n."


def test_the_message_of_a_case_without_one(tmp_path: Path) -> None:
    assert script(tmp_path, "class One(Milter): pass").content == DEFAULT_MESSAGE
