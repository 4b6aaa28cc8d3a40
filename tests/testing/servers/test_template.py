"""Text with expressions: evaluated, sent, compared."""

from __future__ import annotations

import pytest

from aiomilter.testing.servers.template import CaseError, Pattern, Template, Wildcard

NAMES: dict[str, object] = {
    "any": Wildcard.ANY,
    "rest": Wildcard.REST,
    "word": "grün",
    "raw": b"\xe9\x00",
    "number": 7,
}


def pattern(text: str) -> Pattern:
    return Template(text, "x.case:3").fill(NAMES)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("", b""),
        ("plain }} {{ text", b"plain }} {{ text"),
        ("{{word}}, {{ raw }}", b"gr\xc3\xbcn, \xe9\x00"),
        ('{{"x" * 3}}{{b"\\xff"}}', b"xxx\xff"),
        ('{{"\\udce9"}}', b"\xe9"),
    ],
)
def test_expressions_are_text_or_bytes(text: str, sent: bytes) -> None:
    assert Template(text, "").render(NAMES) == sent


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{{number}}", "x.case:3: {{number}} is neither text nor bytes, but 7"),
        ("{{missing}}", "x.case:3: {{missing}} fails: NameError: name 'missing' is not defined"),
        ("{{1 +}}", "x.case:3: {{1 +}} fails: SyntaxError"),
        ("{{any}}", "x.case:3: {{any}} can be expected, but not sent"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(CaseError) as caught:
        Template(text, "x.case:3").render(NAMES)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("text", "data", "agrees"),
    [
        ("250 ok", b"250 ok", True),
        ("250 ok", b"250 ok ", False),
        ("250 .k", b"250 ok", False),
        ("id {{any}}", b"id 4711", True),
        ("id {{any}}", b"id ", True),
        ("a: {{any}}\r\nb: c\r\n", b"a: x\r\n\ty\r\n z\r\nb: c\r\n", True),
        ("a: {{any}}\r\n", b"a: x\r\nb: y\r\n", False),
        ("{{rest}}", b"a\r\nb\r\n\r\n\x00", True),
        ("a{{rest}}z", b"a\r\nz", True),
        ("a{{rest}}z", b"a\r\ny", False),
        ("{{word}}{{any}}", b"gr\xc3\xbcn!", True),
    ],
)
def test_patterns(text: str, data: bytes, agrees: bool) -> None:
    assert pattern(text).matches(data) is agrees


def test_a_pattern_in_lines_keeps_folds_together() -> None:
    lines = pattern("a: {{any}}\r\nb:\r\n c\r\n").lines()
    assert [line.show() for line in lines] == [b"a: {{any}}", b"b:\r\n c", b""]
