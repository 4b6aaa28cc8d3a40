"""Headers: without loss, in order, in linear time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiomilter.app.message.header import Header
from aiomilter.app.message.headers import Headers


def received() -> Headers:
    return Headers(
        [
            Header(b"Received", b" from a\n\tby b"),
            Header(b"From", b" a@src.example"),
            Header(b"X-A", b"1"),
            Header(b"subject", b"  =?utf-8?q?gr=C3=BC=C3=9Fe?=  "),
            Header(b"x-a", b" \xff"),
        ]
    )


def lines(headers: Headers) -> list[str]:
    return [
        header.raw.decode("utf-8", "backslashreplace").removesuffix("\r\n") for header in headers
    ]


def test_a_header_shows_its_bytes_its_value_and_its_text() -> None:
    headers = received()
    trace = headers.get("received")
    assert trace is not None
    assert (trace.name, trace.value) == ("Received", "from a\tby b")
    assert trace.raw == b"Received: from a\r\n\tby b\r\n"
    assert trace.raw_value == b" from a\n\tby b"
    subject = headers.get("Subject")
    assert subject is not None
    assert (subject.value, subject.text) == ("=?utf-8?q?gr=C3=BC=C3=9Fe?=", "grüße")
    assert [one.value for one in headers.get_all("X-A")] == ["1", "\udcff"]
    assert [one.text for one in headers.get_all("X-A")] == ["1", "\ufffd"]
    assert headers.get_text("SUBJECT") == "grüße"
    assert headers.get_text("X-None", "nothing") == "nothing"


def test_names_are_found_in_any_case() -> None:
    headers = received()
    assert "SUBJECT" in headers
    assert "X-B" not in headers
    assert 7 not in headers
    assert headers.get("X-B") is None
    assert headers.get_all("X-B") == []
    assert len(headers) == 5


def test_every_edit_has_its_place() -> None:
    headers = received()
    headers.add("X-End", "1")
    headers.prepend("X-Top", "2")
    headers.insert_before("From", "X-Before", "3")
    headers.insert_after("From", "X-After", "4")
    headers.replace("X-A", "changed")
    assert headers.remove("received") == 1
    assert lines(headers) == [
        "X-Top: 2",
        "X-Before: 3",
        "From: a@src.example",
        "X-After: 4",
        "X-A: changed",
        "subject:  =?utf-8?q?gr=C3=BC=C3=9Fe?=  ",
        "x-a: \\xff",
        "X-End: 1",
    ]
    assert headers.is_changed
    assert len(headers.original) == 5


def test_replace_adds_a_name_that_is_not_there() -> None:
    headers = Headers()
    assert headers.replace("Subject", "new").raw == b"Subject: new\r\n"
    assert headers.replace("X", Header(b"Y", b" 1")).raw == b"Y: 1\r\n"
    assert lines(headers) == ["Subject: new", "Y: 1"]


def test_a_header_may_take_the_place_of_one_of_another_name() -> None:
    headers = received()
    headers.replace("From", Header.made("X-A", "0"))
    assert [one.value for one in headers.get_all("x-a")] == ["0", "1", "\udcff"]
    assert "From" not in headers


def test_a_header_that_was_taken_out_goes_in_again_byte_for_byte() -> None:
    headers = received()
    trace = headers.get("Received")
    assert trace is not None
    assert trace in headers
    headers.remove(trace)
    assert trace not in headers
    assert headers.insert_after("subject", trace) is trace
    assert lines(headers)[3] == "Received: from a\r\n\tby b"
    # One that is in a place already is copied.
    again = headers.add(trace)
    assert again is not trace
    assert again == trace
    other = Headers()
    assert other.prepend(trace) == trace
    assert len({trace, again}) == 1
    assert trace != "Received"


def test_removing_all_of_a_name_says_how_many() -> None:
    headers = received()
    assert headers.remove("x-A") == 2
    assert headers.remove("x-A") == 0
    assert len(headers) == 3


def test_headers_ahead_may_be_removed_while_iterating() -> None:
    headers = received()
    seen = []
    for header in headers:
        seen.append(header.name)
        headers.remove("From")
        headers.remove("subject")
    # One that was gone already when its turn came is not seen.
    assert seen == ["Received", "X-A", "x-a"]
    assert repr(headers) == "<Headers: 3>"


def test_headers_may_be_removed_while_iterating() -> None:
    headers = received()
    for header in headers:
        headers.remove(header)
    assert len(headers) == 0
    assert list(headers) == []
    headers.add("X", "1")
    assert lines(headers) == ["X: 1"]


def test_what_is_the_same_again_is_no_change() -> None:
    headers = received()
    assert not headers.is_changed
    headers.replace("From", "a@src.example")
    trace = headers.get("Received")
    assert trace is not None
    headers.remove(trace)
    headers.prepend(trace)
    assert not headers.is_changed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "v\r\nBcc: x@y"),
        ("X-A", "v\nY: z"),
        ("X-A", "v\n"),
        ("X-A", "v\r"),
        ("X-A", "a\0b"),
        ("X A", "v"),
        ("X:", "v"),
        ("", "v"),
        ("X-\xe9", "v"),
        ("X" * 997, "v"),
        ("X", "\ud800"),
    ],
)
def test_what_would_become_another_header_is_refused(name: str, value: str) -> None:
    headers = received()
    before = lines(headers)
    edits: list[Callable[[], object]] = [
        lambda: headers.add(name, value),
        lambda: headers.prepend(name, value),
        lambda: headers.insert_before("From", name, value),
        lambda: headers.insert_after("From", name, value),
    ]
    for edit in edits:
        with pytest.raises(ValueError, match=r"header|text"):
            edit()
    assert lines(headers) == before


def test_a_place_that_is_not_there_is_an_error() -> None:
    headers = received()
    stranger = Header.made("X", "1")
    edits: list[Callable[[], object]] = [
        lambda: headers.insert_before("X-B", "Y", "1"),
        lambda: headers.insert_after(stranger, "Y", "1"),
        lambda: headers.remove(stranger),
        lambda: headers.replace(stranger, "1"),
    ]
    for edit in edits:
        with pytest.raises(LookupError):
            edit()
    with pytest.raises(TypeError, match="has no value"):
        headers.add("X")  # type: ignore[call-overload]
    assert len(headers) == 5


@pytest.mark.unmeasured
def test_a_hundred_thousand_headers_are_kept() -> None:
    headers = Headers(Header(b"X-%d" % (number % 1000), b" v") for number in range(100_000))
    assert len(headers.get_all("x-7")) == 100
    assert headers.remove("X-7") == 100
    assert len(list(headers)) == len(headers) == 99_900


@pytest.mark.unmeasured
def test_edits_of_many_headers_take_linear_time() -> None:
    # No clock: a quadratic container would take minutes.
    count = 20_000
    headers = Headers(Header(b"X-%d" % (number % 1000), b" v") for number in range(count))
    for number in range(count):
        headers.get(f"x-{number % 1000}")
    subject = headers.insert_before("X-0", "Subject", "s")
    for _ in range(1000):
        headers.insert_before(subject, "X-New", "1")
        headers.get("X-New")
    for header in list(headers):
        headers.insert_after(header, "X-Seen", "1")
        headers.get("X-Seen")
        if header.name != "Subject":
            headers.replace(header, "w")
    assert len(headers) == 2 * (count + 1001)
    assert len(headers.get_all("X-7")) == 20
    for header in list(headers):
        headers.remove(header)
    assert len(headers) == 0
    assert "X-Seen" not in headers


NAMES = st.sampled_from(["A", "a", "B", "C"])
VALUES = st.sampled_from(["1", "2"])


class AsAList(RuleBasedStateMachine):
    """Headers do what a plain list of names and values does."""

    def __init__(self) -> None:
        super().__init__()
        self.headers = Headers([("A", "1"), ("B", "1"), ("a", "2")])
        self.model: list[Header] = list(self.headers)

    @rule(name=NAMES, value=VALUES)
    def add(self, name: str, value: str) -> None:
        self.model.append(self.headers.add(name, value))

    @rule(name=NAMES, value=VALUES)
    def prepend(self, name: str, value: str) -> None:
        self.model.insert(0, self.headers.prepend(name, value))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), name=NAMES, behind=st.booleans())
    def insert(self, data: Any, name: str, behind: bool) -> None:
        at = data.draw(st.integers(0, len(self.model) - 1))
        insert = self.headers.insert_after if behind else self.headers.insert_before
        self.model.insert(at + behind, insert(self.model[at], name, "3"))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), name=NAMES)
    def replace(self, data: Any, name: str) -> None:
        at = data.draw(st.integers(0, len(self.model) - 1))
        self.model[at] = self.headers.replace(self.model[at], Header.made(name, "4"))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        at = data.draw(st.integers(0, len(self.model) - 1))
        self.headers.remove(self.model.pop(at))

    @invariant()
    def is_alike(self) -> None:
        assert [id(header) for header in self.headers] == [id(header) for header in self.model]
        assert len(self.headers) == len(self.model)
        for name in ("a", "b", "c"):
            same = [header for header in self.model if header.name.lower() == name]
            assert self.headers.get_all(name) == same
            assert self.headers.get(name) is (same[0] if same else None)


TestAsAList = AsAList.TestCase
TestAsAList.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
