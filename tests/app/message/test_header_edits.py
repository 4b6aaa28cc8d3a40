"""The edits that make new headers of old ones: right on the models of both MTAs, and the fewest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomilter.app.message.header import Header
from aiomilter.app.message.header_edits import SENDMAIL_OWN, header_edits
from aiomilter.app.message.headers import Headers
from aiomilter.app.mta.edits import Edit, HeaderAdded, HeaderChanged, HeaderInserted
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.postfix import PostfixHeaders
from aiomilter.app.mta.sendmail import SendmailHeaders
from tests.app.message.edits import edit_randomly, lines_of, random_headers

Lines = Sequence[tuple[str, str]]
LAST = 2_147_483_647
KINDS: list[tuple[Mta | None, tuple[Mta, ...]]] = [
    (Mta.POSTFIX, (Mta.POSTFIX,)),
    (Mta.SENDMAIL, (Mta.SENDMAIL,)),
    (None, (Mta.POSTFIX, Mta.SENDMAIL)),
]
KIND = pytest.mark.parametrize(("kind", "servers"), KINDS, ids=["postfix", "sendmail", "unknown"])


def play(mta: Mta, old: Lines, edits: Sequence[Edit], blank: str = "") -> list[tuple[str, str]]:
    headers = PostfixHeaders(old) if mta is Mta.POSTFIX else SendmailHeaders(old)
    for edit in edits:
        match edit:
            case HeaderAdded(name, value):
                headers.add(name, blank + value)
            case HeaderInserted(index, name, value):
                headers.insert(index, name, blank + value)
            case HeaderChanged(name, index, value):
                headers.change(name, index, blank + value if value else None)
            case _:
                raise AssertionError(edit)
    return headers.result()


def edits_of(headers: Headers, kind: Mta | None, *, leading_space: bool = True) -> list[Edit]:
    return header_edits(headers.original, list(headers), kind, leading_space=leading_space)


@KIND
@pytest.mark.parametrize("leading_space", [True, False])
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_wanted_headers_come_out(
    kind: Mta | None, servers: tuple[Mta, ...], leading_space: bool, seed: int
) -> None:
    random = Random(seed)
    headers = Headers(random_headers(random))
    old = lines_of(headers)
    edit_randomly(random, headers)
    edits = edits_of(headers, kind, leading_space=leading_space)
    for mta in servers:
        blank = "" if leading_space else " "
        assert play(mta, old, edits, blank) == lines_of(headers), edits


OWN_NAMES = ("Date", "From", "Message-Id", "X-A")


@KIND
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_sendmail_makes_itself_comes_out_once(
    kind: Mta | None, servers: tuple[Mta, ...], seed: int
) -> None:
    """Their place is not kept where the client has sent none."""
    random = Random(seed)
    headers = Headers(random_headers(random, OWN_NAMES))
    old = lines_of(headers)
    edit_randomly(random, headers, OWN_NAMES)
    edits = edits_of(headers, kind)
    was_there = {name.lower() for name, _ in old}
    for mta in servers:
        got, wanted = play(mta, old, edits), lines_of(headers)
        if kind is Mta.POSTFIX:
            assert got == wanted
        # Sendmail also keeps the spelling that its own header would have.
        got, wanted = titled(got), titled(wanted)
        assert sorted(got) == sorted(wanted)
        free = {
            name
            for name, _ in wanted
            if name.lower().encode() in SENDMAIL_OWN and name.lower() not in was_there
        }
        placed = [line for line in got if line[0] not in free]
        assert placed == [line for line in wanted if line[0] not in free]


def titled(lines: Lines) -> list[tuple[str, str]]:
    return [(name.title(), value) for name, value in lines]


def numbered(*names: str) -> Headers:
    return Headers((name, str(number)) for number, name in enumerate(names))


def test_the_plain_edits_are_what_anybody_would_write() -> None:
    headers = numbered("Received", "Subject", "To")
    headers.replace("Subject", "new")
    headers.add("X-New", "n")
    headers.prepend("X-Top", "t")
    assert edits_of(headers, None) == [
        HeaderChanged("Subject", 1, " new"),
        HeaderAdded("X-New", " n"),
        HeaderInserted(1, "X-Top", " t"),
    ]


def test_nothing_changed_is_nothing_to_do() -> None:
    headers = numbered("A", "B", "A")
    second = headers.get("B")
    assert second is not None
    headers.remove(second)
    headers.insert_after("A", "B", "1")
    headers.replace("A", "x")
    headers.replace("A", "0")
    assert edits_of(headers, None) == []


def test_one_of_a_name_is_changed_and_others_are_deleted_from_the_bottom() -> None:
    headers = numbered("A", "B", "A", "A", "A")
    first, second, third, fourth = headers.get_all("A")
    headers.remove(first)
    headers.replace(second, "new")
    headers.remove(third)
    headers.replace(fourth, "newer")
    assert edits_of(headers, None) == [
        HeaderChanged("A", 2, " new"),
        # Which of two equal ways is taken does not matter.
        HeaderChanged("A", 3, " newer"),
        HeaderChanged("A", 4, None),
        HeaderChanged("A", 1, None),
    ]


def test_a_header_in_the_middle_has_the_number_of_its_mta() -> None:
    headers = numbered("A", "B", "C", "D")
    headers.remove("A")
    headers.insert_after("B", "X", "1")
    headers.insert_after("X", "Y", "2")
    deletion = HeaderChanged("A", 1, None)
    assert edits_of(headers, Mta.POSTFIX) == [
        deletion,
        HeaderInserted(2, "Y", " 2"),
        HeaderInserted(2, "X", " 1"),
    ]
    assert edits_of(headers, Mta.SENDMAIL) == [
        deletion,
        HeaderInserted(10, "Y", " 2"),
        HeaderInserted(10, "X", " 1"),
    ]
    # Right on both: what stands above is put in again.
    assert edits_of(headers, None) == [
        HeaderChanged("B", 1, None),
        deletion,
        HeaderInserted(1, "Y", " 2"),
        HeaderInserted(1, "X", " 1"),
        HeaderInserted(1, "B", " 1"),
    ]


def test_another_spelling_is_a_change_for_postfix_alone() -> None:
    headers = numbered("subject", "To")
    headers.replace("subject", Header.made("Subject", "0"))
    assert edits_of(headers, Mta.POSTFIX) == [HeaderChanged("Subject", 1, " 0")]
    for kind in (Mta.SENDMAIL, None):
        assert edits_of(headers, kind) == [
            HeaderChanged("subject", 1, None),
            HeaderInserted(1, "Subject", " 0"),
        ]


def test_a_second_one_of_a_name_is_inserted_at_the_end() -> None:
    headers = numbered("A")
    headers.add("A", "1")
    headers.add("B", "1")
    headers.add("B", "2")
    headers.add("Received", "r")
    assert edits_of(headers, None) == [
        HeaderInserted(LAST, "A", " 1"),
        HeaderAdded("B", " 1"),
        HeaderInserted(LAST, "B", " 2"),
        HeaderInserted(LAST, "Received", " r"),
    ]


def test_a_value_of_nothing_is_no_deletion() -> None:
    empty = Header(b"A", b"")
    headers = numbered("A", "B")
    headers.replace("A", empty)
    assert edits_of(headers, None) == [
        HeaderChanged("A", 1, None),
        HeaderInserted(1, "A", ""),
    ]
    headers = numbered("A", "B")
    headers.replace("A", "")
    assert edits_of(headers, None) == [HeaderChanged("A", 1, " ")]
    assert edits_of(headers, None, leading_space=False)[0] == HeaderChanged("A", 1, None)


# Fewest: no shorter sequence does it, whatever it is made of.

VALUES = ("1", "2")


def every_edit(length: int, wanted: Lines) -> Iterator[Edit]:
    names = sorted({name for name, _ in wanted} | {"A", "B"})
    values = sorted({value for _, value in wanted}) or ["1"]
    for name, value in product(names, values):
        yield HeaderAdded(name, value)
        for index in (*range(length + 3), *range(9, 10 + length), LAST):
            yield HeaderInserted(index, name, value)
    for name, number in product(names, range(1, length + 2)):
        yield HeaderChanged(name, number, None)
        for value in values:
            yield HeaderChanged(name, number, value)


def is_reached(
    servers: tuple[Mta, ...], old: Lines, wanted: Lines, most: int, done: tuple[Edit, ...] = ()
) -> bool:
    results = [play(mta, old, done) for mta in servers]
    if all(result == list(wanted) for result in results):
        return True
    left = most - len(done)
    # Each edit makes the list longer or shorter by one at most.
    if left <= 0 or any(abs(len(result) - len(wanted)) > left for result in results):
        return False
    return any(
        is_reached(servers, old, wanted, most, (*done, edit))
        for edit in every_edit(len(old) + len(done), wanted)
    )


@KIND
@settings(max_examples=15, deadline=None)
@given(
    old=st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from(["1", "2"])), max_size=3),
    new=st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from(["1", "2"])), max_size=3),
)
def test_no_shorter_sequence_of_edits_does_it(
    kind: Mta | None,
    servers: tuple[Mta, ...],
    old: list[tuple[str, str]],
    new: list[tuple[str, str]],
) -> None:
    plain = [(name, value) for name, value in old]
    edits = header_edits(
        [Header(name.encode(), value.encode()) for name, value in old],
        [Header(name.encode(), value.encode()) for name, value in new],
        kind,
        leading_space=True,
    )
    for mta in servers:
        assert play(mta, plain, edits) == new
    # Three edits deep is what can be tried out.
    assert not is_reached(servers, plain, new, min(len(edits) - 1, 2)) or not edits


def headers_of(count: int, names: int) -> Headers:
    return Headers(Header(b"X-%d" % (number % names), b" v") for number in range(count))


@pytest.mark.unmeasured
@pytest.mark.parametrize("names", [1, 1000])
@pytest.mark.parametrize("kind", [*Mta, None])
def test_few_edits_of_many_headers_take_linear_time(names: int, kind: Mta | None) -> None:
    headers = headers_of(30_000, names)
    headers.add("X-End", "1")
    headers.prepend("X-Top", "1")
    headers.replace("X-0", "2")
    began = time.process_time()
    assert len(edits_of(headers, kind)) == 3
    assert time.process_time() - began < 8


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", [*Mta, None])
def test_edits_of_all_of_many_headers_take_linear_time(kind: Mta | None) -> None:
    headers = headers_of(15_000, 1)
    for number in range(15_000):
        headers.add("X-Junk", str(number))
    old = headers.original
    mail = Headers((*old, *headers))
    mail.remove("X-Junk")
    began = time.process_time()
    edits = edits_of(mail, kind)
    assert time.process_time() - began < 8
    assert len(edits) == 15_000


@pytest.mark.parametrize("kind", [*Mta, None])
def test_very_many_edits_are_still_right(kind: Mta | None) -> None:
    headers = numbered(*(f"X-{number % 7}" for number in range(600)))
    old = lines_of(headers)
    for number, header in enumerate(list(headers)):
        if number % 3 == 0:
            headers.replace(header, "new")
        elif number % 3 == 1:
            headers.remove(header)
        elif number < 300 or number > 400:
            headers.insert_after(header, "X-3", "more")
    empty = headers.get("X-3")
    assert empty is not None
    headers.replace(empty, Header(b"X-3", b""))
    edits = edits_of(headers, kind)
    for mta in (kind,) if kind else tuple(Mta):
        assert play(mta, old, edits) == lines_of(headers)


@pytest.mark.parametrize("mta", [None, *Mta])
def test_two_values_at_most_are_changed_in_place(mta: Mta | None) -> None:
    old = [Header(b"X", b" 1"), Header(b"Y", b" 1"), Header(b"x", b" 2"), Header(b"X", b" 3")]
    new = [old[0], Header(b"Y", b" 9"), old[2], Header(b"X", b" 9")]
    assert header_edits(old, new, mta, leading_space=True) == [
        HeaderChanged("Y", 1, " 9"),
        HeaderChanged("X", 3, " 9"),
    ]
    # Three may be fewer another way.
    moved = [Header(b"X", b" 2"), Header(b"X", b" 3"), Header(b"X", b" 4"), Header(b"X", b" 5")]
    rotated = [*moved[1:], moved[0]]
    assert len(header_edits(moved, rotated, mta, leading_space=True)) == 2
