"""The answering half of the milter's end: from a verdict to a reply and a next state.

Rules of this file (``sendreply`` and ``mi_engine`` in libmilter's ``engine.c``):

- Every command that expects an answer gets exactly one, and none goes out for a stage that was
  negotiated as no-reply. Where the milter asked for no-reply and the MTA did not offer it, the
  answer CONTINUE is given on the milter's behalf.
- ACCEPT, REJECT, TEMPFAIL and DISCARD end the message (before a message: the stage) and lead
  back to HELO, except that a refusal at RCPT means this recipient, and one of an unknown command
  that command.
- Other than in libmilter, a verdict in a no-reply stage has no effect at all. There nothing is
  sent but the rest of the message is swallowed: the MTA waits for ever.
"""

from __future__ import annotations

from aiomilter.errors import LocalProtocolError
from aiomilter.session.events import Event
from aiomilter.session.macros import MacroStore
from aiomilter.session.status import Status
from aiomilter.spec import Options, State
from aiomilter.wire.commands import EndOfMessage
from aiomilter.wire.replies import (
    Accept,
    Continue,
    Discard,
    Progress,
    Reject,
    ReplyCode,
    Skip,
    TempFail,
)

__all__ = ["AnsweringSession"]

# Constant replies, encoded once.
_CONTINUE_PACKET = Continue().encode()
_PROGRESS_PACKET = Progress().encode()
_PACKETS = {
    Status.CONTINUE: _CONTINUE_PACKET,
    Status.SKIP: Skip().encode(),
    Status.ACCEPT: Accept().encode(),
    Status.REJECT: Reject().encode(),
    Status.TEMPFAIL: TempFail().encode(),
    Status.DISCARD: Discard().encode(),
}

# Hot path: members of an enum as globals (an attribute of an enum class costs five times a
# global) and states as plain integers.
_CONTINUE, _ACCEPT = Status.CONTINUE, Status.ACCEPT
_DISCARD, _SKIP, _NOREPLY = Status.DISCARD, Status.SKIP, Status.NOREPLY
_HELO, _DATA, _BODY = int(State.HELO), int(State.DATA), int(State.BODY)
_EOM, _UNKNOWN = int(State.EOM), int(State.UNKNOWN)
_SKIP_OPTION, _NO_MAIL = int(Options.SKIP), int(Options.NO_MAIL)

_ON_A_MESSAGE = (Status.ACCEPT, Status.DISCARD)
_PARTIAL_REFUSALS = (int(State.RCPT), int(State.UNKNOWN))
"""Where a refusal means the recipient or the command, and leaves the message as it is."""


def _encode_verdict(status: Status, text: bytes | None) -> bytes:
    """Return the packet of a verdict.

    Raises:
        LocalProtocolError: It is none that can be sent.
    """
    if text is not None and (status is Status.REJECT or status is Status.TEMPFAIL):
        return ReplyCode(text).encode()
    packet = _PACKETS.get(status)
    if packet is None:
        raise LocalProtocolError(f"{status.name} is no answer here: the MTA would wait for one")
    return packet


class AnsweringSession:
    """What `FilterSession` knows and does on the way out.

    Attributes:
        macros: What the MTA has told about the session, by stage.
        actions: The action bits that were agreed; 0 before the negotiation.
        awaiting: The state of the command that waits for an answer, or None; to be looked at only.
        message_is_open: Whether a message has begun and has no verdict yet.
        outgoing: The packets that `data_to_send` would return; to be looked at only.
        queue: The events that are known and not fetched yet; to be looked at only.
    """

    __slots__ = (
        "_awaiting_no_reply",
        "_eom_follows",
        "_handled",
        "_is_announced",
        "_mail_is_told",
        "_offered_options",
        "_options",
        "_options_sent",
        "_owed",
        "_refusal",
        "_refusal_of_data",
        "_spares_message",
        "_state",
        "_wanted",
        "actions",
        "awaiting",
        "macros",
        "message_is_open",
        "outgoing",
        "queue",
    )

    def __init__(self) -> None:
        self.macros = MacroStore()
        self.actions = 0
        self._state = int(State.INIT)
        # Stages with a handler, and those of them that are not skipped in this message.
        self._handled = self._wanted = 0
        self._options = 0
        self._options_sent = 0
        self._offered_options = 0
        self.outgoing: list[bytes] = []
        self.queue: list[Event] = []
        self.message_is_open = False
        self.awaiting: int | None = None
        # Its no-reply bit.
        self._awaiting_no_reply = 0
        # Whether that command is the last piece of a body that came with the end of the message.
        self._eom_follows = False
        self._owed: tuple[Status, bytes] | None = None
        self._refusal: bytes | None = None
        # What a refusal at DATA was: the client may ask once more.
        self._refusal_of_data: bytes | None = None
        # Whether macros of MAIL have come though MAIL itself is not wanted.
        self._mail_is_told = False
        # Stages that the milter does not want are not shown to it, but MTAs send their macros.
        self._is_announced = False
        self._spares_message = False

    @property
    def options(self) -> int:
        """The option bits that were agreed, as the milter's end keeps to them."""
        return self._options

    def may_answer(self) -> bool:
        """Return whether the open event takes a verdict: False in a no-reply stage."""
        return not self._options & self._awaiting_no_reply

    def respond(self, status: Status, text: bytes | None = None, edits: bytes = b"") -> None:
        """Answer the open event.

        Args:
            status: The verdict. In a stage without replies all but SKIP only mean "go on".
            text: The SMTP reply to a REJECT or TEMPFAIL, or None for the MTA's own words; of no
                account with another verdict.
            edits: Packets that go ahead of the verdict; at the end of a message only.

        Raises:
            LocalProtocolError: There is no open event, or the verdict is none of the protocol's
                at this place: the MTA would wait for ever.
        """
        target = self.awaiting
        if target is None or self.queue:
            raise LocalProtocolError("there is no event to answer")
        if edits and target != _EOM:
            raise LocalProtocolError("edits are for the end of a message only")
        if status is _CONTINUE and target < _EOM and not self._eom_follows:
            self.awaiting = None
            self._answer_continue(self._awaiting_no_reply)
            return
        if status is _NOREPLY and not self.may_answer():
            status = _CONTINUE
        elif status is _SKIP:
            # Sent where both sides agreed on it and at the body only: Sendmail takes it for an
            # ACCEPT at MAIL and RCPT and loses the body when it comes at a header.
            is_sent = target == _BODY and self._options_sent & _SKIP_OPTION
            status = _SKIP if is_sent and not self._eom_follows else _CONTINUE
            if self.message_is_open:
                self._wanted &= ~(1 << target)
        packet = _encode_verdict(status, text)
        self.awaiting = None
        if self._eom_follows:
            self._eom_follows = False
            if status is _CONTINUE:
                event = self._reach_end_of_message()
                if event is not None:
                    self.queue.append(event)
                return
            target = _EOM
        no_reply = self._awaiting_no_reply
        if self._options & no_reply:
            self._answer_continue(no_reply)
            return
        if edits:
            self.outgoing.append(edits)
        self._conclude(target, status, packet)

    def go_on(self) -> None:
        """Answer the open event with CONTINUE: `respond` for nearly all of them.

        Raises:
            LocalProtocolError: There is no open event.
        """
        # Hot path: a third of the questions that `respond` asks.
        target = self.awaiting
        if target is None or target >= _EOM or self._eom_follows or self.queue:
            self.respond(_CONTINUE)
            return
        self.awaiting = None
        no_reply = self._awaiting_no_reply
        if not self._options & no_reply or not self._offered_options & no_reply:
            self.outgoing.append(_CONTINUE_PACKET)

    def takes_verdict_at_unknown(self, status: Status) -> bool:
        """Return whether an MTA may be given this verdict on an unknown command.

        ACCEPT and DISCARD are meant for a message. Sent without one, as libmilter does, the one
        makes Postfix's smtpd panic, and the other loses the next message. Where the milter does
        not want MAIL, it cannot be known: Sendmail does not tell it that a message was given up.
        """
        if status not in _ON_A_MESSAGE:
            return True
        return self.message_is_open and not self._options & _NO_MAIL

    def owe(self, status: Status, text: bytes | None = None) -> None:
        """Give a verdict at the next event that takes one, instead of reporting that event.

        For a fault in a stage without replies. Until then no event is reported. A verdict on a
        recipient does not settle it: the whole message is meant.
        """
        self._owed = status, _encode_verdict(status, text)

    def refuse_new_messages(self, text: bytes) -> None:
        """From now on answer every command outside of a message with this SMTP reply (421).

        A message that has begun towards the MTA may come to its end, also where the milter has
        not been shown anything of it yet.
        """
        self._spares_message = self._is_announced and not self.message_is_open
        self._refusal = _encode_verdict(Status.TEMPFAIL, text)

    def send_progress(self) -> None:
        """Tell the MTA that the end of the message takes longer.

        Raises:
            LocalProtocolError: Not at the end of a message. Sendmail takes it for a fault
                everywhere else.
        """
        if self.awaiting != _EOM or self.queue:
            raise LocalProtocolError("progress is for the end of a message only")
        self.outgoing.append(_PROGRESS_PACKET)

    def data_to_send(self) -> bytes:
        """Return the bytes for the MTA that have come up since the last call; possibly none."""
        out = self.outgoing
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def _answer_continue(self, no_reply: int) -> None:
        """Go on; also on behalf of a milter that does not reply to an MTA that waits."""
        if not self._options & no_reply or not self._offered_options & no_reply:
            self.outgoing.append(_CONTINUE_PACKET)

    def _refuse_again(self, no_reply: int) -> bool:
        """Refuse a command of a message that was refused at DATA; return whether it was.

        The client may go on with that message. libmilter swallows what comes then, and the MTA
        gives the milter up: a client that sends DATA twice would be unfiltered from then on.
        """
        if self._refusal_of_data is None:
            return False
        # What has announced it belongs to no new message.
        self._is_announced = False
        if not self._options & no_reply or not self._offered_options & no_reply:
            self.outgoing.append(self._refusal_of_data)
        return True

    def _conclude(self, target: int, status: Status, packet: bytes) -> None:
        """Send a verdict on the command of the state ``target``, and draw its consequences."""
        if target == _UNKNOWN and not self.takes_verdict_at_unknown(status):
            # What is owed stays owed: it is for a message.
            self.outgoing.append(_CONTINUE_PACKET)
            if status is _ACCEPT and not self.message_is_open:
                self._state = _HELO
            return
        self.outgoing.append(packet)
        if status is _CONTINUE:
            if target == _EOM:
                self._end_message()
        elif status is _ACCEPT or (status is not _SKIP and target not in _PARTIAL_REFUSALS):
            self._state = _HELO
            self._end_message()
            self._owed = None
            if target == _DATA and status is not _ACCEPT and status is not _DISCARD:
                # Only of an MTA that tells when another message begins.
                is_told = self._mail_is_told or not self._options & _NO_MAIL
                self._refusal_of_data = packet if is_told else None

    def _begin_message(self) -> None:
        self.message_is_open = True
        self._refusal_of_data = None
        self.macros.begin_message()

    def _end_message(self, next_has_macros: bool = False) -> None:
        if self.message_is_open:
            self.message_is_open = False
            self._is_announced = self._spares_message = False
            self._wanted = self._handled
            self._owed = None
            self.macros.end_message(next_has_macros)

    def _reach_end_of_message(self) -> Event | None:
        """Return the event for the end of the message, or None if it was answered here."""
        if self._owed is not None:
            self._conclude(_EOM, *self._owed)
        elif self._handled >> _EOM & 1:
            self.awaiting = _EOM
            self._awaiting_no_reply = 0
            return EndOfMessage()
        else:
            self._conclude(_EOM, _CONTINUE, _CONTINUE_PACKET)
        return None
