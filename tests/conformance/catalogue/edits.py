"""Replies in a filter's own words, and edits of a message."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.catalogue.sessions import (
    AHEAD,
    OPENING,
    RESULT_NAMES,
    STAGE_PACKETS,
    STAGES,
    Session,
    at_end,
    reacting,
)
from tests.libmilter.plan import (
    ACCEPT,
    CONTINUE,
    DISCARD,
    NOREPLY,
    REJECT,
    SKIP,
    TEMPFAIL,
    Call,
    Plan,
    Script,
    Step,
    Value,
)
from tests.packets import ABORT, EOM, EOM_WITH_TAIL, HELO, MAIL, MESSAGE, QUIT, QUIT_NC, RCPT

__all__ = ["EDITS", "REPLIES"]

_REFUSED = Call.of("setreply", b"550", b"5.7.1", b"no")
_LATER = Call.of("setreply", b"450", b"4.7.1", b"later")


def _set(*args: Value) -> Call:
    return Call.of("setreply", *args)


def _lines(*args: Value) -> Call:
    return Call.of("setmlreply", *args)


_REPLIES: dict[str, Call] = {
    "code, enhanced code and text": _REFUSED,
    "no enhanced code": _set(b"550", None, b"no"),
    "no text": _set(b"550", b"5.7.1", None),
    "an empty text": _set(b"550", b"5.7.1", b""),
    "the code alone": _set(b"550", None, None),
    "another code": _set(b"599", b"5.999.999", b"no"),
    "a text of 980 bytes": _set(b"550", b"5.7.1", 980 * b"x"),
    "a text of 981 bytes": _set(b"550", b"5.7.1", 981 * b"x"),
    "a text of bytes that are no ASCII": _set(b"550", b"5.7.1", b"\xc3\xa4 \xff \x01"),
    "a text that begins with a code": _set(b"550", None, b"5.1.1 no"),
    "CR in the text": _set(b"550", b"5.7.1", b"a\rb"),
    "LF in the text": _set(b"550", b"5.7.1", b"a\nb"),
    "a code that is no refusal": _set(b"250", b"2.0.0", b"yes"),
    "a code of 3xx": _set(b"354", None, b"go on"),
    "a code of 6xx": _set(b"650", None, b"no"),
    "a code of two digits": _set(b"55", None, b"no"),
    "an enhanced code of two numbers": _set(b"550", b"5.7", b"no"),
    "an enhanced code of four numbers": _set(b"550", b"5.7.1.1", b"no"),
    "an enhanced code of four digits": _set(b"550", b"5.1234.1", b"no"),
    "an enhanced code of letters": _set(b"550", b"5.x.1", b"no"),
    "an enhanced code of class 3": _set(b"550", b"3.7.1", b"no"),
    "an empty enhanced code": _set(b"550", b"", b"no"),
    "one line": _lines(b"550", b"5.7.1", b"one"),
    "two lines": _lines(b"550", b"5.7.1", b"one", b"two"),
    "two lines without an enhanced code": _lines(b"550", None, b"one", b"two"),
    "one line without an enhanced code": _lines(b"550", None, b"one"),
    "empty lines": _lines(b"550", b"5.7.1", b"", b"", b""),
    "32 lines": _lines(b"550", b"5.7.1", *(b"line %d" % number for number in range(32))),
    "33 lines": _lines(b"550", b"5.7.1", *(b"line %d" % number for number in range(33))),
    "32 lines of 980 bytes": _lines(b"550", b"5.7.1", *(32 * [980 * b"x"])),
    "a line of 981 bytes": _lines(b"550", b"5.7.1", b"one", 981 * b"x"),
    "CR in a line": _lines(b"550", b"5.7.1", b"one", b"t\rwo"),
    "lines with a code that is no refusal": _lines(b"250", b"2.0.0", b"one", b"two"),
}
_DEVIATING_REPLIES: dict[str, tuple[str, Call]] = {
    "a percent sign": (
        "D18",
        _set(b"550", b"5.7.1", b"100% sure"),
    ),
    "percent signs in lines": (
        "D18",
        _lines(b"550", b"5.7.1", b"%", b"a %s b %% c"),
    ),
    "no line": ("D24", _lines(b"550", b"5.7.1")),
    "no line and no enhanced code": ("D24", _lines(b"550", None)),
    "lines with an enhanced code of class 2": ("D17", _lines(b"550", b"2.0.0", b"one", b"two")),
    "an enhanced code of class 4": ("D17", _set(b"550", b"4.7.1", b"no")),
    "an enhanced code of class 2": ("D17", _set(b"550", b"2.0.0", b"no")),
}


def _replies() -> Iterator[Session]:
    sends: tuple[bytes, ...] = (OPENING + MAIL, RCPT, RCPT, MESSAGE)
    for title, call in _REPLIES.items():
        plan = Plan.of(envrcpt=Script((Step((call,), REJECT),)))
        yield Session(title, plan, sends)
    for title, (deviation, call) in _DEVIATING_REPLIES.items():
        plan = Plan.of(envrcpt=Script((Step((call,), REJECT),)))
        yield Session(title, plan, sends, deviation)
    for title, call, result in (
        ("a reply for now", _LATER, TEMPFAIL),
        ("a reply of 421", _set(b"421", b"4.3.0", b"bye"), TEMPFAIL),
        ("lines for now", _lines(b"451", None, b"one", b"two"), TEMPFAIL),
        ("a refused reply leaves the one before", _set(b"250", None, b"yes"), REJECT),
    ):
        calls = (_REFUSED, call) if result == REJECT else (call,)
        yield Session(title, Plan.of(envrcpt=Script((Step(calls, result),))), sends)
    twice = Plan.of(envrcpt=Script((Step((_LATER, _REFUSED), REJECT),)))
    yield Session("the last reply counts", twice, sends)
    for stage in STAGES:
        for call, result in ((_REFUSED, REJECT), (_LATER, TEMPFAIL)):
            plan = reacting({stage: Script((Step((call,), result),))})
            name = RESULT_NAMES[result]
            sends = (AHEAD[stage], STAGE_PACKETS[stage], MAIL)
            yield Session(f"{name} with a reply in {stage}", plan, sends)
    for result in (CONTINUE, DISCARD, ACCEPT):
        plan = Plan.of(envrcpt=Script((Step((_REFUSED,), result),)))
        sends = (OPENING + MAIL, RCPT, EOM)
        yield Session(f"a reply and {RESULT_NAMES[result]}", plan, sends)
    for call, result, title in (
        (_REFUSED, TEMPFAIL, "TEMPFAIL with a reply for good"),
        (_LATER, REJECT, "REJECT with a reply for now"),
    ):
        plan = Plan.of(envrcpt=Script((Step((call,), result),)))
        yield Session(title, plan, (OPENING + MAIL, RCPT, EOM))


def _kept_replies() -> Iterator[Session]:
    """A reply that has not been used waits for a verdict of its class."""
    kept = Step((_REFUSED,))
    used = Step((), REJECT)
    sends: tuple[bytes, ...] = (OPENING + MAIL, RCPT, RCPT, RCPT)
    plan = Plan.of(envrcpt=Script((kept, used, used)))
    yield Session("a reply is kept for the next recipient", plan, sends, "D6")
    plan = Plan.of(envrcpt=Script((Step((_REFUSED,), TEMPFAIL), used)))
    yield Session("a reply survives a verdict of another class", plan, sends, "D6")
    plan = Plan.of(connect=Script((kept,)), envfrom=Script((used, used)))
    yield Session("a reply is kept from CONNECT to MAIL", plan, (OPENING, MAIL, MAIL), "D6")
    plan = Plan.of(eom=Script((kept, used)))
    sends = (OPENING, MESSAGE, MESSAGE)
    yield Session("a reply is kept for the next message", plan, sends, "D6")
    plan = Plan.of(envfrom=Script((kept, used)))
    yield Session("a reply survives ABORT", plan, (OPENING, MAIL, ABORT, MAIL), "D6")
    plan = Plan.of(eom=Script((kept,)), helo=Script((Step(), used)))
    sends = (OPENING + MESSAGE, QUIT_NC, HELO)
    yield Session("a reply survives a new session", plan, sends, "D6")
    plan = Plan.of(envrcpt=Script((Step((_REFUSED,), REJECT), used)))
    yield Session("a reply is used once", plan, (OPENING + MAIL, RCPT, RCPT))


REPLIES = [*_replies(), *_kept_replies()]

_EDITS: dict[str, tuple[Call, ...]] = {
    "add a header": (Call.of("addheader", b"X-A", b"v"),),
    "add an empty header": (Call.of("addheader", b"X-A", b""),),
    "add a folded header": (Call.of("addheader", b"X-A", b"one\n two\n\tthree"),),
    "add a header without name": (Call.of("addheader", b"", b"v"),),
    "add a header with a leading blank": (Call.of("addheader", b"X-A", b" v "),),
    "add a header that is no ASCII": (Call.of("addheader", b"X-A", b"\xc3\xa4 \xff \x01"),),
    "insert a header at 0": (Call.of("insheader", 0, b"X-A", b"v"),),
    "insert a header at 1": (Call.of("insheader", 1, b"X-A", b"v"),),
    "insert a header far behind": (Call.of("insheader", 0x7FFFFFFF, b"X-A", b"v"),),
    "insert a header at -1": (Call.of("insheader", -1, b"X-A", b"v"),),
    "insert a header without name": (Call.of("insheader", 1, b"", b"v"),),
    "change a header": (Call.of("chgheader", b"Subject", 1, b"new"),),
    "change the header 0": (Call.of("chgheader", b"Subject", 0, b"new"),),
    "change the header 7": (Call.of("chgheader", b"Subject", 7, b"new"),),
    "change the header -1": (Call.of("chgheader", b"Subject", -1, b"new"),),
    "change a header without name": (Call.of("chgheader", b"", 1, b"new"),),
    "delete a header by NULL": (Call.of("chgheader", b"Subject", 1, None),),
    "delete a header by an empty value": (Call.of("chgheader", b"Subject", 1, b""),),
    "change the sender": (Call.of("chgfrom", b"<c@example.com>", None),),
    "change the sender to nobody": (Call.of("chgfrom", b"<>", None),),
    "change the sender, with parameters": (Call.of("chgfrom", b"c@example.com", b"RET=HDRS"),),
    "change the sender, with empty parameters": (Call.of("chgfrom", b"c@example.com", b""),),
    "change the sender to nothing": (Call.of("chgfrom", b"", None),),
    "add a recipient": (Call.of("addrcpt", b"<c@example.com>"),),
    "add no recipient": (Call.of("addrcpt", b""),),
    "add a recipient with parameters": (
        Call.of("addrcpt_par", b"<c@example.com>", b"NOTIFY=NEVER"),
    ),
    "add a recipient with empty parameters": (Call.of("addrcpt_par", b"<c@example.com>", b""),),
    "add no recipient with parameters": (Call.of("addrcpt_par", b"", b"NOTIFY=NEVER"),),
    "delete a recipient": (Call.of("delrcpt", b"<b@example.com>"),),
    "delete no recipient": (Call.of("delrcpt", b""),),
    "replace the body": (Call.of("replacebody", b"new\r\n"),),
    "replace the body by nothing": (Call.of("replacebody", b""),),
    "replace the body by zeros": (Call.of("replacebody", 20 * b"\0"),),
    "replace the body by 65535 bytes": (Call.of("replacebody", 65535 * b"x"),),
    "replace the body by 65536 bytes": (Call.of("replacebody", 65536 * b"x"),),
    "replace the body by 131070 bytes": (Call.of("replacebody", 131070 * b"x"),),
    "replace the body in pieces": (
        Call.of("replacebody", b"one"),
        Call.of("replacebody", b""),
        Call.of("replacebody", b"two"),
    ),
    "quarantine": (Call.of("quarantine", b"looks odd"),),
    "quarantine without reason": (Call.of("quarantine", b""),),
    "all edits in turn": (
        Call.of("addheader", b"X-A", b"a"),
        Call.of("insheader", 1, b"X-B", b"b"),
        Call.of("chgheader", b"Subject", 1, b"c"),
        Call.of("chgfrom", b"<d@example.com>", None),
        Call.of("addrcpt", b"<e@example.com>"),
        Call.of("addrcpt_par", b"<f@example.com>", b"NOTIFY=NEVER"),
        Call.of("delrcpt", b"<b@example.com>"),
        Call.of("replacebody", b"g\r\n"),
        Call.of("quarantine", b"h"),
    ),
    "an edit that is refused between two others": (
        Call.of("addheader", b"X-A", b"a"),
        Call.of("addheader", b"", b"b"),
        Call.of("addheader", b"X-C", b"c"),
    ),
    "a header that just fits": (Call.of("addheader", b"X", 65532 * b"v"),),
    "a header that is too long": (Call.of("addheader", b"X", 65533 * b"v"),),
    "a recipient that just fits": (Call.of("addrcpt", 65534 * b"a"),),
    "a recipient that is too long": (Call.of("addrcpt", 65535 * b"a"),),
}
_INJECTIONS: dict[str, Call] = {
    "CRLF in a header's value": Call.of("addheader", b"X-A", b"v\r\nX-B: w"),
    "LF in a header's value": Call.of("addheader", b"X-A", b"v\nX-B: w"),
    "CR in a header's value": Call.of("addheader", b"X-A", b"v\rw"),
    "LF in a header's name": Call.of("addheader", b"X-A: v\nX-B", b"w"),
    "a colon in a header's name": Call.of("addheader", b"X:A", b"v"),
    "a blank in a header's name": Call.of("insheader", 1, b"X A", b"v"),
    "a changed header with LF": Call.of("chgheader", b"Subject", 1, b"v\nX-B: w"),
    "an inserted header with LF": Call.of("insheader", 1, b"X-A", b"v\n\nbody"),
    "a sender with CRLF": Call.of("chgfrom", b"<a@b>\r\nRCPT TO:<c@d>", None),
    "a sender's parameters with LF": Call.of("chgfrom", b"<a@b>", b"RET=HDRS\nX"),
    "a recipient with CRLF": Call.of("addrcpt", b"<a@b>\r\nDATA"),
    "a recipient's parameters with CR": Call.of("addrcpt_par", b"<a@b>", b"NOTIFY=\rNEVER"),
    "a deleted recipient with LF": Call.of("delrcpt", b"<a@b>\n"),
    "a reason with LF": Call.of("quarantine", b"looks\nodd"),
}
_ACTION_OF_CALL: dict[str, tuple[int, Call]] = {
    "addheader": (0x01, Call.of("addheader", b"X", b"y")),
    "insheader": (0x01, Call.of("insheader", 1, b"X", b"y")),
    "replacebody": (0x02, Call.of("replacebody", b"new")),
    "addrcpt": (0x04, Call.of("addrcpt", b"<c@d>")),
    "delrcpt": (0x08, Call.of("delrcpt", b"<c@d>")),
    "chgheader": (0x10, Call.of("chgheader", b"X", 1, b"y")),
    "quarantine": (0x20, Call.of("quarantine", b"why")),
    "chgfrom": (0x40, Call.of("chgfrom", b"<c@d>", None)),
    "addrcpt_par": (0x80, Call.of("addrcpt_par", b"<c@d>", b"X=y")),
}


def _edits() -> Iterator[Session]:
    sends: tuple[bytes, ...] = (OPENING + MESSAGE[: -len(EOM)], EOM, MAIL)
    for title, calls in _EDITS.items():
        yield Session(title, Plan.of(eom=at_end(*calls)), sends)
    for title, call in _INJECTIONS.items():
        plan = Plan.of(eom=at_end(call))
        yield Session(title, plan, sends, "D17")
    calls = tuple(call for _, call in _ACTION_OF_CALL.values())
    for name, (action, _) in _ACTION_OF_CALL.items():
        lacking = Plan.of(flags=0x1FF & ~action, eom=at_end(*calls))
        yield Session(f"all edits but {name} are agreed", lacking, sends)
        alone = Plan.of(flags=action, eom=at_end(*calls))
        yield Session(f"no edits but {name} are agreed", alone, sends)
    for stage in STAGES:
        if stage == "eom":
            continue
        plan = reacting({stage: at_end(*calls)})
        yield Session(f"edits in {stage}", plan, (AHEAD[stage], STAGE_PACKETS[stage], QUIT))
    for hook in ("abort", "close"):
        plan = reacting({hook: at_end(*calls)})
        yield Session(f"edits in {hook}", plan, (OPENING, MAIL, ABORT, QUIT))
    header = Call.of("addheader", b"X", b"y")
    for result, name in RESULT_NAMES.items():
        if result not in (NOREPLY, SKIP):
            plan = Plan.of(eom=at_end(header, result=result))
            yield Session(f"an edit and {name}", plan, sends)
    plan = Plan.of(eom=at_end(header, _REFUSED, result=REJECT))
    yield Session("an edit and a reply", plan, sends)
    plan = Plan.of(eom=at_end(header, result=5))
    yield Session("an edit and an undefined result", plan, sends, "D7")
    plan = Plan.of(eom=at_end(header, result=NOREPLY))
    yield Session("an edit and NOREPLY", plan, sends, "D16")


def _times_of_edits() -> Iterator[Session]:
    for stage in STAGES:
        if stage == "eom":
            continue
        plan = reacting({stage: at_end(Call.of("progress"))})
        deviation = "D19"
        yield Session(
            f"progress in {stage}", plan, (AHEAD[stage], STAGE_PACKETS[stage], QUIT), deviation
        )
    header = Call.of("addheader", b"X", b"y")
    body = Call.of("replacebody", b"new")
    sends: tuple[bytes, ...] = (OPENING + MESSAGE[: -len(EOM)], EOM, MAIL)
    plan = Plan.of(eom=at_end(body, header, body))
    yield Session("a body around another edit", plan, sends, "D22")
    plan = Plan.of(body=at_end(header))
    sends = (AHEAD["body"], EOM_WITH_TAIL, MAIL)
    yield Session("an edit at the last piece of a body", plan, sends, "D23")
    plan = Plan.of(close=at_end(header))
    yield Session("an edit at the end of the input", plan, (OPENING, MESSAGE), "D23")
    plan = Plan.of(eom=at_end(header))
    yield Session("edits in each message", plan, (OPENING, MESSAGE, MESSAGE, QUIT))


EDITS = [*_edits(), *_times_of_edits()]
