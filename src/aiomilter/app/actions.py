"""What a milter may do to a message at its end.

Rules of this file:

- Edits are held until the handler has returned and then leave with the verdict, in one write.
  Postfix and libmilter apply each as it comes: a handler that fails half-way would leave half
  of them in the mail.
- They leave in the order in which they were made, except that all pieces of a new body stand
  together, where the first one was: Postfix refuses the message otherwise.
- What could become another header, another line of the envelope or the end of a string on the
  wire is refused here, when the edit is made. Neither libmilter nor an MTA looks at it. What
  could be a line end to one server and none to the next, in a new body, is refused as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiomilter.app.guards import (
    check_header_index,
    encode_address,
    encode_header_name,
    encode_header_value,
    encode_params,
    encode_reason,
)
from aiomilter.app.line_endings import BodyLines, LineEndings
from aiomilter.errors import ActionNotNegotiated, LocalProtocolError
from aiomilter.spec import MAX_PAYLOAD_BYTES, Actions
from aiomilter.wire import replies
from aiomilter.wire.replies import encode_body

__all__ = ["EomActions"]

_PACKET_HEAD_BYTES = 5


class EomActions:
    """The edits of one message; handed to `on_eom`, of no use afterwards.

    None of the methods sends anything, except `progress`. A method that raises leaves the edits
    made before it as they are.

    All of them raise `ActionNotNegotiated` if the MTA did not agree to the action, and
    `LocalProtocolError` once `on_eom` has returned. Text is sent as UTF-8; what came in as text
    goes back to the same bytes.
    """

    __slots__ = (
        "_actions",
        "_body",
        "_body_at",
        "_body_lines",
        "_edits",
        "_is_open",
        "_send_progress",
    )

    def __init__(self, actions: int, send_progress: Callable[[], Awaitable[None]]) -> None:
        self._actions = actions
        self._send_progress = send_progress
        self._edits: list[bytes] = []
        self._body: list[bytes] = []
        self._body_at = 0
        self._body_lines = BodyLines()
        self._is_open = True

    def add_header(self, name: str, value: str) -> None:
        """Put a header behind all others; Sendmail puts it ahead of others of its name.

        Args:
            name: Of printable ASCII characters without colon and blank; not empty.
            value: May be empty. Lines are separated by LF (or CRLF, sent as LF) with a blank or
                tab behind it. The MTA puts a blank in front, unless the option LEADING_SPACE
                was agreed: then the value has to begin with one.

        Raises:
            ValueError: The name or the value is none that a header can have.
        """
        self._require(Actions.ADD_HEADER, "add_header")
        header = replies.AddHeader(encode_header_name(name), encode_header_value(value))
        self._append(header.encode(), "add_header")

    def insert_header(self, index: int, name: str, value: str) -> None:
        """Put a header at a position among all headers.

        Args:
            index: 0 is above the MTA's own Received header, 1 just below it; beyond the last
                header means behind it. At most 2147483647. Sendmail counts some that
                are not there: 1 to 8 are all the same place.
            name: As for `add_header`.
            value: As for `add_header`.

        Raises:
            ValueError: The index is negative or too large, or the header is none.
        """
        self._require(Actions.ADD_HEADER, "insert_header")
        check_header_index(index)
        header = replies.InsertHeader(index, encode_header_name(name), encode_header_value(value))
        self._append(header.encode(), "insert_header")

    def change_header(self, name: str, index: int, value: str | None) -> None:
        """Replace or delete one of the headers of a name.

        Args:
            name: As for `add_header`; the case does not matter.
            index: Which of the headers of that name, counted from 1 (0 means 1). Postfix counts
                anew after each edit, to Sendmail a deleted header still counts: delete the last
                one first. One that does not exist is added, or, deleted, ignored.
            value: As for `add_header`; None deletes the header, and so does an empty value,
                since both MTAs take it so.

        Raises:
            ValueError: The index is negative or too large, or the header is none.
        """
        self._require(Actions.CHANGE_HEADER, "change_header")
        check_header_index(index)
        new_value = b"" if value is None else encode_header_value(value)
        header = replies.ChangeHeader(index, encode_header_name(name), new_value)
        self._append(header.encode(), "change_header")

    def change_sender(self, address: str, params: str | Sequence[str] | None = None) -> None:
        """Replace the envelope sender.

        Args:
            address: With or without its angle brackets; ``<>`` for the null sender.
            params: ESMTP parameters, as one string or several. Postfix knows RET and ENVID.

        Raises:
            ValueError: The address is empty, or something has CR, LF or NUL in it.
        """
        self._require(Actions.CHANGE_SENDER, "change_sender")
        sender = replies.ChangeSender(encode_address(address), encode_params(params))
        self._append(sender.encode(), "change_sender")

    def add_recipient(self, address: str, params: str | Sequence[str] | None = None) -> None:
        """Add an envelope recipient.

        Args:
            address: With or without its angle brackets.
            params: ESMTP parameters, as one string or several; needs the action
                ADD_RECIPIENT_WITH_PARAMS. Postfix knows NOTIFY and ORCPT.

        Raises:
            ValueError: The address is empty, or something has CR, LF or NUL in it.
        """
        if params is None:
            self._require(Actions.ADD_RECIPIENT, "add_recipient")
            packet = replies.AddRecipient(encode_address(address)).encode()
        else:
            self._require(Actions.ADD_RECIPIENT_WITH_PARAMS, "add_recipient with parameters")
            recipient = replies.AddRecipientWithParams(
                encode_address(address), encode_params(params)
            )
            packet = recipient.encode()
        self._append(packet, "add_recipient")

    def delete_recipient(self, address: str) -> None:
        """Take an envelope recipient away.

        Args:
            address: As `on_rcpt` got it; the case matters. One that is not there is ignored.

        Raises:
            ValueError: The address is empty or has CR, LF or NUL in it.
        """
        self._require(Actions.DELETE_RECIPIENT, "delete_recipient")
        packet = replies.DeleteRecipient(encode_address(address)).encode()
        self._append(packet, "delete_recipient")

    def replace_body(self, data: bytes, *, line_endings: LineEndings = "checked") -> None:
        """Replace the body; further calls add to the new one.

        Args:
            data: Of any size, also empty. Lines end in CRLF; MTAs make CRLF of a bare LF. Pieces
                may be cut anywhere, also between CR and LF.
            line_endings: What becomes of a CR without LF, which a server further on may take for
                the end of a line or of the message. ``checked``: it is refused; one at the very
                end of the body shows when `on_eom` has returned, which is then a fault of the
                handler. ``canonical``: each bare CR and each bare LF is sent as CRLF. ``raw``:
                all is sent as it is. The same for all pieces of a body.

        Raises:
            ValueError: There is a CR without LF, which may be the last byte of the piece before;
                or ``line_endings`` is none or another one than before.
        """
        self._require(Actions.REPLACE_BODY, "replace_body")
        piece = self._body_lines.take(data, line_endings)
        if not self._body:
            self._body_at = len(self._edits)
        elif not piece and line_endings != "raw":
            return
        self._body.append(encode_body(piece))

    def quarantine(self, reason: str) -> None:
        """Have the MTA hold the message for an administrator.

        Args:
            reason: For the administrator; not empty. Postfix does not keep it.

        Raises:
            ValueError: The reason is empty or has CR, LF or NUL in it.
        """
        self._require(Actions.QUARANTINE, "quarantine")
        self._append(replies.Quarantine(encode_reason(reason)).encode(), "quarantine")

    async def progress(self) -> None:
        """Tell the MTA that the handler is still at work; sent at once.

        The library does so by itself every few seconds.
        """
        self._require(None, "progress")
        await self._send_progress()

    @property
    def fault(self) -> str | None:
        """What is wrong with the edits as a whole; None if nothing is. Asked by the library."""
        return self._body_lines.fault

    def close(self) -> bytes:
        """Return the packets of all edits, and take no more; called by the library."""
        self._is_open = False
        before, behind = self._edits[: self._body_at], self._edits[self._body_at :]
        packets = b"".join(before + self._body + behind)
        # Whoever keeps this keeps no body, which may be large.
        self._edits, self._body = [], []
        return packets

    def _require(self, action: Actions | None, call: str) -> None:
        if not self._is_open:
            raise LocalProtocolError(f"{call} comes too late: on_eom has returned")
        if action is not None and not self._actions & action:
            raise ActionNotNegotiated(str(action.name), call)

    def _append(self, packet: bytes, call: str) -> None:
        size = len(packet) - _PACKET_HEAD_BYTES
        if size > MAX_PAYLOAD_BYTES:
            raise ValueError(
                f"{call}: {size} bytes do not fit into a packet of {MAX_PAYLOAD_BYTES}"
            )
        self._edits.append(packet)
