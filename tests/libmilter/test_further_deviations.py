"""Where aiomilter leaves libmilter: the same session on both, D10 of docs/deviations.md and on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.catalogue.sessions import reacting
from tests.libmilter.deviations import without_hooks
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import (
    ACCEPT,
    CALLBACKS,
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
)
from tests.libmilter.test_deviations import (
    ANSWER,
    CONTINUED,
    OPENED,
    OPENING,
    REJECTED,
    SKIPPED,
    TEMPFAILED,
    run_both,
)
from tests.packets import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    ENVELOPE,
    EOH,
    EOM,
    EOM_WITH_TAIL,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    macros,
    packet,
)

PLAIN_VERDICT = {
    REJECT: packet("r"),
    TEMPFAIL: packet("t"),
    ACCEPT: packet("a"),
    DISCARD: packet("d"),
}
ADDED_HEADER = b"\0\0\0\x07hX-A\0v\0"
ADD_HEADER = Call.of("addheader", b"X-A", b"v")
ALL_BUT_NEGOTIATE = dict.fromkeys(CALLBACKS[1:], Script())
TO_EOM = OPENING + ENVELOPE + EOH + EOM
BEFORE_EOM = OPENED + 4 * CONTINUED


@pytest.fixture(scope="module")
def host() -> Iterator[LibmilterHost]:
    with LibmilterHost() as running:
        yield running


def test_d10_an_unknown_command_does_not_silence_the_message(host: LibmilterHost) -> None:
    sent = OPENING + MAIL + RCPT + UNKNOWN + HEADER + EOH + BODY + EOM
    libmilter, aiomilter = run_both(host, Plan.of(), sent)
    assert libmilter.output == OPENED + 3 * CONTINUED
    assert libmilter.callbacks == "connect helo envfrom envrcpt unknown"
    assert aiomilter.output == OPENED + 7 * CONTINUED
    assert aiomilter.callbacks == libmilter.callbacks + " header eoh body eom"


def test_d10_an_unknown_command_does_not_abort_the_message(host: LibmilterHost) -> None:
    sent = OPENING + ENVELOPE + HEADER + UNKNOWN + EOH + EOM
    libmilter, aiomilter = run_both(host, Plan.of(), sent)
    assert libmilter.output == OPENED + 5 * CONTINUED
    assert libmilter.callbacks == "connect helo envfrom envrcpt data header abort unknown"
    assert aiomilter.output == OPENED + 7 * CONTINUED
    assert aiomilter.callbacks == "connect helo envfrom envrcpt data header unknown eoh eom"


ALL_TEN = "envfrom envrcpt envrcpt data header header eoh body body eom"


@pytest.mark.parametrize(
    ("callback", "answers", "served"),
    [
        ("envfrom", b"sccccccccc", ALL_TEN),
        ("envrcpt", b"cssccccccc", "envfrom envrcpt data header header eoh body body eom"),
        ("data", b"cccscccccc", ALL_TEN),
        ("header", b"ccccsscccc", "envfrom envrcpt envrcpt data header eoh body body eom"),
        ("eoh", b"ccccccsccc", ALL_TEN),
        ("body", b"cccccccssc", "envfrom envrcpt envrcpt data header header eoh body eom"),
        ("eom", b"cccccccccs", ALL_TEN),
    ],
)
def test_d11_skip_is_sent_only_where_it_was_agreed(
    host: LibmilterHost, callback: str, answers: bytes, served: str
) -> None:
    sent = MAIL + RCPT + RCPT + DATA + HEADER + HEADER + EOH + BODY + BODY + EOM
    plan = Plan(ALL_BUT_NEGOTIATE | {callback: Script.always(SKIP)})
    libmilter, aiomilter = run_both(host, plan, OPENING + sent)
    assert libmilter.output == OPENED + b"".join(b"\0\0\0\x01%c" % letter for letter in answers)
    assert libmilter.callbacks == f"connect helo {ALL_TEN}"
    assert aiomilter.output == OPENED + 10 * CONTINUED
    assert aiomilter.callbacks == f"connect helo {served}"


def test_d11_after_skip_no_further_piece_of_the_body_is_shown(host: LibmilterHost) -> None:
    negotiate = Script(further=Step(outputs=(0x1FF, 0x400)))
    plan = Plan.of(negotiate=negotiate, body=Script.always(SKIP))
    libmilter, aiomilter = run_both(host, plan, OPENING + ENVELOPE + EOH + BODY + BODY + EOM)
    answers = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\x04\0" + 6 * CONTINUED + SKIPPED
    assert libmilter.output == answers + SKIPPED + CONTINUED
    assert libmilter.callbacks == "negotiate connect helo envfrom envrcpt data eoh body body eom"
    assert aiomilter.output == answers + CONTINUED + CONTINUED
    assert aiomilter.callbacks == "negotiate connect helo envfrom envrcpt data eoh body eom"


@pytest.mark.parametrize(
    "client", [b"4\0\0unknown\0", b"6\0\x19fe80::1%eth0\0", b"L\0\0/" + 107 * b"x" + b"\0"]
)
def test_d14_a_client_without_a_readable_address_is_unknown(
    host: LibmilterHost, client: bytes
) -> None:
    sent = OFFER + packet("C", b"unknown\0" + client) + HELO
    libmilter, aiomilter = run_both(host, Plan.of(), sent)
    assert (libmilter.output, libmilter.callbacks, libmilter.closed) == (ANSWER, "close", True)
    assert (aiomilter.output, aiomilter.callbacks) == (OPENED, "connect helo")
    assert aiomilter.events[0].args == (b"unknown", None)


def test_d15_macros_end_with_their_message(host: LibmilterHost) -> None:
    # The second sender has not logged in, and the MTA has no macro to send.
    login = b"{auth_authen}"
    plan = Plan.of(("envfrom", "eom"), macros=(login,))
    sent = OFFER + macros("M", login, b"alice") + MAIL + EOM + packet("D", b"M") + MAIL
    libmilter, aiomilter = run_both(host, plan, sent)
    alice = {login: b"alice"}
    assert [event.macros for event in libmilter.events] == [alice, alice, alice]
    assert [event.macros for event in aiomilter.events] == [alice, alice, {}]


@pytest.mark.parametrize("callback", ["helo", "unknown", "envfrom", "envrcpt", "eom"])
def test_d16_noreply_where_an_answer_is_due_is_a_fault(host: LibmilterHost, callback: str) -> None:
    sent = {
        "helo": (OPENING, ANSWER + CONTINUED),
        "unknown": (OPENING + UNKNOWN, OPENED),
        "envfrom": (OPENING + MAIL, OPENED),
        "envrcpt": (OPENING + MAIL + RCPT, OPENED + CONTINUED),
        "eom": (TO_EOM, BEFORE_EOM),
    }
    data, answers = sent[callback]
    plan = Plan(ALL_BUT_NEGOTIATE | {callback: Script.always(NOREPLY)})
    libmilter, aiomilter = run_both(host, plan, data)
    assert libmilter.output == answers
    assert aiomilter.output == answers + TEMPFAILED


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        pytest.param(
            Call.of("addheader", b"X-A", b"v\r\nBcc: x"),
            b"\0\0\0\x0fhX-A\0v\r\nBcc: x\0",
            id="second header",
        ),
        pytest.param(
            Call.of("insheader", 1, b"X-A", b"v\n\nbody"),
            b"\0\0\0\x11i\0\0\0\x01X-A\0v\n\nbody\0",
            id="body in a header",
        ),
        pytest.param(
            Call.of("chgheader", b"X A:", 1, b"v"),
            b"\0\0\0\x0cm\0\0\0\x01X A:\0v\0",
            id="name that is none",
        ),
        pytest.param(
            Call.of("chgfrom", b"<a>\r\nX", None), b"\0\0\0\x08e<a>\r\nX\0", id="second sender"
        ),
        pytest.param(
            Call.of("addrcpt", b"<a>\n<b>"), b"\0\0\0\x09+<a>\n<b>\0", id="second recipient"
        ),
        pytest.param(
            Call.of("addrcpt_par", b"<a>", b"NOTIFY=NEVER\r\nX"),
            b"\0\0\0\x152<a>\0NOTIFY=NEVER\r\nX\0",
            id="line in a parameter",
        ),
        pytest.param(Call.of("delrcpt", b"<a>\r"), b"\0\0\0\x06-<a>\r\0", id="lone CR"),
        pytest.param(
            Call.of("quarantine", b"spam\r\nX"), b"\0\0\0\x09qspam\r\nX\0", id="line in a reason"
        ),
    ],
)
def test_d17_values_that_become_others_are_refused(
    host: LibmilterHost, call: Call, sent: bytes
) -> None:
    plan = Plan.of(eom=Script.always(CONTINUE, call))
    libmilter, aiomilter = run_both(host, plan, TO_EOM)
    assert libmilter.events[-1].returns == (0,)
    assert libmilter.output == BEFORE_EOM + sent + CONTINUED
    assert aiomilter.events[-1].returns == (-1,)
    assert aiomilter.output == BEFORE_EOM + CONTINUED


@pytest.mark.parametrize("enhanced_code", [b"4.7.1", b"2.7.1"])
def test_d17_an_enhanced_code_of_another_class_is_refused(
    host: LibmilterHost, enhanced_code: bytes
) -> None:
    set_reply = Call.of("setreply", b"550", enhanced_code, b"no")
    plan = Plan.of(envfrom=Script.always(REJECT, set_reply))
    libmilter, aiomilter = run_both(host, plan, OPENING + MAIL)
    assert libmilter.output == OPENED + b"\0\0\0\x0ey550 " + enhanced_code + b" no\0"
    assert aiomilter.events[-1].returns == (-1,)
    assert aiomilter.output == OPENED + REJECTED


def test_d17_a_folded_value_leaves_with_lf_alone(host: LibmilterHost) -> None:
    plan = Plan.of(eom=Script.always(CONTINUE, Call.of("addheader", b"X-A", b"v\r\n\tw")))
    libmilter, aiomilter = run_both(host, plan, TO_EOM)
    assert libmilter.output == BEFORE_EOM + b"\0\0\0\x0bhX-A\0v\r\n\tw\0" + CONTINUED
    assert aiomilter.output == BEFORE_EOM + b"\0\0\0\x0ahX-A\0v\n\tw\0" + CONTINUED


def test_d18_percent_signs_are_doubled(host: LibmilterHost) -> None:
    set_reply = Call.of("setreply", b"550", b"5.7.1", b"100% spam")
    plan = Plan.of(envfrom=Script.always(REJECT, set_reply))
    libmilter, aiomilter = run_both(host, plan, OPENING + MAIL)
    assert libmilter.output == OPENED + b"\0\0\0\x15y550 5.7.1 100% spam\0"
    assert aiomilter.output == OPENED + b"\0\0\0\x16y550 5.7.1 100%% spam\0"


def test_d19_progress_is_for_the_end_of_a_message(host: LibmilterHost) -> None:
    plan = Plan.of(helo=Script.always(CONTINUE, Call.of("progress")))
    libmilter, aiomilter = run_both(host, plan, OPENING)
    assert libmilter.output == ANSWER + CONTINUED + b"\0\0\0\x01p" + CONTINUED
    assert aiomilter.output == OPENED


@pytest.mark.parametrize(("size", "is_served"), [(4096, True), (4097, False)])
def test_d20_payloads_are_small_before_the_negotiation(
    host: LibmilterHost, size: int, is_served: bool
) -> None:
    helo = packet("H", (size - 1) * b"x" + b"\0")
    libmilter, aiomilter = run_both(host, Plan.of(), helo)
    assert (libmilter.output, libmilter.closed) == (CONTINUED, False)
    assert (aiomilter.output, aiomilter.closed) == (CONTINUED * is_served, not is_served)


def test_d21_a_packet_that_is_too_long_is_refused_at_its_fourth_byte(host: LibmilterHost) -> None:
    libmilter, aiomilter = run_both(host, Plan.of(), OPENING + b"\0\1\0\1")
    assert (libmilter.output, libmilter.closed) == (OPENED, False)
    assert (aiomilter.output, aiomilter.closed) == (OPENED, True)
    for side in run_both(host, Plan.of(), OPENING + b"\0\1\0\1B"):
        assert (side.output, side.closed) == (OPENED, True)


def test_d22_pieces_of_a_new_body_stand_together(host: LibmilterHost) -> None:
    pieces = [Call.of("replacebody", b"a"), Call.of("replacebody", b"b")]
    plan = Plan.of(eom=Script.always(CONTINUE, pieces[0], ADD_HEADER, pieces[1]))
    libmilter, aiomilter = run_both(host, plan, TO_EOM)
    a, b = b"\0\0\0\x02ba", b"\0\0\0\x02bb"
    assert libmilter.output == BEFORE_EOM + a + ADDED_HEADER + b + CONTINUED
    assert aiomilter.output == BEFORE_EOM + a + b + ADDED_HEADER + CONTINUED


def test_d23_the_last_piece_of_a_body_takes_no_edit(host: LibmilterHost) -> None:
    plan = Plan.of(body=Script.always(CONTINUE, ADD_HEADER))
    libmilter, aiomilter = run_both(host, plan, OPENING + ENVELOPE + EOH + EOM_WITH_TAIL)
    assert libmilter.output == BEFORE_EOM + ADDED_HEADER + CONTINUED
    assert aiomilter.output == BEFORE_EOM + CONTINUED


def test_d23_nothing_is_written_behind_a_verdict(host: LibmilterHost) -> None:
    plan = Plan.of(close=Script.always(CONTINUE, ADD_HEADER))
    libmilter, aiomilter = run_both(host, plan, TO_EOM, ends=True)
    assert libmilter.output == BEFORE_EOM + CONTINUED + ADDED_HEADER
    assert aiomilter.output == BEFORE_EOM + CONTINUED


def test_d24_a_reply_ends_in_a_last_line(host: LibmilterHost) -> None:
    set_reply = Call.of("setmlreply", b"550", b"5.7.1")
    plan = Plan.of(envfrom=Script.always(REJECT, set_reply))
    libmilter, aiomilter = run_both(host, plan, OPENING + MAIL)
    assert libmilter.output == OPENED + b"\0\0\0\x0by550-5.7.1\0"
    assert aiomilter.output == OPENED + b"\0\0\0\x0by550 5.7.1\0"


def test_d25_macros_ahead_of_the_first_command_are_kept(host: LibmilterHost) -> None:
    plan = Plan.of(macros=(b"j",))
    libmilter, aiomilter = run_both(host, plan, macros("H", b"j", b"mx"), HELO, paced=True)
    assert [event.macros for event in libmilter.events] == [{}]
    assert [event.macros for event in aiomilter.events] == [{b"j": b"mx"}]


def test_d26_private_data_survives_in_libmilter(host: LibmilterHost) -> None:
    plan = Plan.of(connect=Script.always(CONTINUE, Call.of("getpriv"), Call.of("setpriv", 7)))
    outcome = host.run(plan, [OPENING + MESSAGE + QUIT_NC + CONNECT])
    connects = [event.returns for event in outcome.events if event.callback == "connect"]
    assert connects == [(0, 0), (7, 0)]


def test_d33_a_message_without_headers_comes_to_its_end(host: LibmilterHost) -> None:
    plan = Plan.of(("envfrom", "envrcpt", "data", "header", "body", "eom"))
    message = ENVELOPE + packet("B", b"text") + packet("E")
    libmilter, aiomilter = run_both(host, plan, OPENING + message)
    seen = ["envfrom", "envrcpt", "data"]
    assert [event.callback for event in libmilter.events] == seen
    assert [event.callback for event in aiomilter.events] == [*seen, "body", "eom"]
    assert aiomilter.output == libmilter.output + 2 * CONTINUED
    with_header = ENVELOPE + packet("L", b"A\0b\0") + packet("E")
    libmilter, aiomilter = run_both(host, plan, OPENING + with_header)
    assert aiomilter.output == libmilter.output


@pytest.mark.parametrize("verdict", [REJECT, TEMPFAIL])
def test_d34_what_follows_a_refusal_of_data_is_refused(host: LibmilterHost, verdict: int) -> None:
    plan = reacting({"data": Script.always(verdict)})
    message = OPENING + MAIL + RCPT + DATA
    libmilter, aiomilter = run_both(host, plan, message + DATA + RCPT + ABORT + MAIL)
    refusal = PLAIN_VERDICT[verdict]
    assert libmilter.output.count(refusal) == 1
    assert aiomilter.output.count(refusal) == 3
    assert aiomilter.output == libmilter.output.replace(refusal, 3 * refusal)
    assert without_hooks(aiomilter.events) == without_hooks(libmilter.events)


@pytest.mark.parametrize("verdict", [ACCEPT, DISCARD])
def test_d35_there_is_no_verdict_on_a_message_that_has_not_begun(
    host: LibmilterHost, verdict: int
) -> None:
    plan = reacting({"unknown": Script.always(verdict)})
    libmilter, aiomilter = run_both(host, plan, OPENING + UNKNOWN)
    assert libmilter.output.endswith(PLAIN_VERDICT[verdict])
    assert aiomilter.output == libmilter.output[:-5] + CONTINUED
    # In a message it is a verdict on that.
    libmilter, aiomilter = run_both(host, plan, OPENING + MAIL + UNKNOWN)
    assert aiomilter.output == libmilter.output


def test_d36_macros_of_mail_end_a_message(host: LibmilterHost) -> None:
    plan = Plan.of(("envrcpt", "eom", "abort"))
    again = packet("D", b"Mi\0second\0") + RCPT + EOM
    libmilter, aiomilter = run_both(host, plan, OPENING + RCPT + again)
    assert [event.callback for event in libmilter.events] == ["envrcpt", "envrcpt", "eom"]
    callbacks = [event.callback for event in aiomilter.events]
    assert callbacks == ["envrcpt", "abort", "envrcpt", "eom"]
    assert aiomilter.output == libmilter.output


@pytest.mark.parametrize("body", [b"a\rb", b"a\r"])
def test_d37_a_bare_cr_in_a_new_body_is_sent_if_asked_for(host: LibmilterHost, body: bytes) -> None:
    plan = Plan.of(eom=Script.always(CONTINUE, Call.of("replacebody", body)))
    # Here this milter asks for raw line ends.
    for side in run_both(host, plan, TO_EOM):
        assert side.output == BEFORE_EOM + packet("b", body) + CONTINUED


def test_d37_an_empty_piece_of_a_new_body_is_sent_if_asked_for(host: LibmilterHost) -> None:
    pieces = [Call.of("replacebody", piece) for piece in (b"a\r", b"", b"\n")]
    plan = Plan.of(eom=Script.always(CONTINUE, *pieces))
    for side in run_both(host, plan, TO_EOM):
        sent = packet("b", b"a\r") + packet("b") + packet("b", b"\n")
        assert side.output == BEFORE_EOM + sent + CONTINUED
