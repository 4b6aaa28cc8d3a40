"""Refuse messages with attachments of dangerous types, by the names of the files.

    python examples/reject_attachment.py [ADDRESS ...]    by default inet:9900, on loopback

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`attachments', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/attachments.sock`):

    run(RejectAttachment, "unix:/var/spool/postfix/milter/attachments.sock",
        config=Config(unix_group="postfix"))

The message is not collected: pieces of the body are looked at as they come, and no more than the
headers of one MIME part are kept. All work takes time in proportion to the message, whatever is in
it, which cannot be said of every mail parser. Archives and uuencoded text are not looked into.
"""

import base64
import binascii
import re
import sys
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from aiomilter import EomActions, Milter, Reply, run

__all__ = ["AttachmentScanner", "RejectAttachment", "file_names", "forbidden_name"]

FORBIDDEN = {"bat", "cmd", "com", "exe", "hta", "js", "jse", "lnk", "msi", "scr", "vbe", "vbs"}

MAX_KEPT_BYTES = 65_536
"""How much of the headers of a part is kept. Real ones have some hundred bytes."""

# `*+` and `++` never give back what they took, so that no input makes these patterns slow.
_PARAMETER = re.compile(r""";\s*+([^\s=;]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^;]*+)""", re.DOTALL)
_FILE_NAME = re.compile(r"(?:file)?name(?:\*(\d{1,4}))?(\*)?")
_ENCODED_WORD = re.compile(r"=\?[^?]*+\?([bBqQ])\?([^?]*+)\?=")
_BETWEEN_ENCODED_WORDS = re.compile(r"(?<=\?=)\s++(?==\?)")
_FOLD = re.compile(r"\r?\n(?=[ \t])")
_BLANK_LINE = re.compile(rb"\n\r?\n")


def file_names(value: str) -> Iterator[str]:
    """Yield the file names in the value of a Content-Type or Content-Disposition.

    They come plain, in pieces or with percent signs (RFC 2231), and, against the standard but
    from many mail programs, as encoded words (RFC 2047).
    """
    pieces: dict[int, str] = {}
    for key, text in _PARAMETER.findall(_FOLD.sub("", value)):
        match = _FILE_NAME.fullmatch(key.lower())
        if match is None:
            continue
        text = _unquote(text)
        number, is_encoded = match[1], match[2]
        if is_encoded:
            # The charset in front (utf-8'en'name) matters little: a suffix is ASCII in all.
            encoded = text.rpartition("'")[2] if number in (None, "0") else text
            text = unquote_to_bytes(encoded).decode("latin-1")
        if number is None:
            yield _decode_words(text)
        else:
            pieces[int(number)] = text
    if pieces:
        yield _decode_words("".join(pieces[number] for number in sorted(pieces)))


def forbidden_name(value: str) -> str | None:
    """Return the first file name in a header's value that must not come in, if there is one."""
    for name in file_names(value):
        # Windows drops blanks and dots at the end; NULs are left over from UTF-16.
        suffix = name.replace("\0", "").rstrip(" .\t\r\n").rpartition(".")[2]
        if suffix.strip().lower() in FORBIDDEN:
            return name
    return None


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text.strip()
    return re.sub(r"\\(.)", r"\1", text[1:].removesuffix('"'), flags=re.DOTALL)


def _decode_words(text: str) -> str:
    return _ENCODED_WORD.sub(_decode_word, _BETWEEN_ENCODED_WORDS.sub("", text))


def _decode_word(match: re.Match[str]) -> str:
    data = match[2].encode("utf-8", "surrogateescape")
    try:
        if match[1] in "qQ":
            return binascii.a2b_qp(data, header=True).decode("latin-1")
        return base64.b64decode(data + b"==").decode("latin-1")
    except binascii.Error:
        return match[0]


class AttachmentScanner:
    """Finds forbidden file names in a body that comes in pieces, cut anywhere.

    Each line that begins with ``--`` may be a boundary, whatever the headers say the boundary is:
    mail programs disagree about that, and a sender would choose the reading that hides the file.
    """

    def __init__(self, *, begins_with_headers: bool = False) -> None:
        """Begin a body; that of an enclosed message (message/rfc822) begins with headers."""
        self._data = b"\n"  # so that a boundary in the first line follows a line break, too
        self._in_headers = begins_with_headers

    def feed(self, chunk: bytes) -> str | None:
        """Look at the next piece; return a name that must not come in, if there is one."""
        data = self._data + chunk
        position = 0
        while True:
            if self._in_headers:
                end = _BLANK_LINE.search(data, position)
                if end is None:
                    break
                found = self._look_at(data[position : end.end()])
                position = end.end() - 1  # the line break: a boundary may follow at once
            else:
                boundary = data.find(b"\n--", position)
                if boundary < 0:
                    position = max(position, len(data) - len(b"\n-"))
                    break
                found = None
                position = boundary + 1
                self._in_headers = True
            if found is not None:
                return found
        self._data = data[position:]
        return self._shorten() if len(self._data) > MAX_KEPT_BYTES else None

    def finish(self) -> str | None:
        """Look at what is left when the body has ended."""
        return self._look_at(self._data) if self._in_headers else None

    def _shorten(self) -> str | None:
        """Look at long headers before their end, so that they need not be kept."""
        data = self._data
        cut = data.rfind(b"\n", 0, -1)
        while cut > 0 and data[cut + 1 : cut + 2] in (b" ", b"\t"):  # a folded line
            cut = data.rfind(b"\n", 0, cut)
        found = self._look_at(data[: max(cut, 0)])
        self._in_headers = True
        self._data = data[max(cut, 0) :]
        if found is None and len(self._data) > MAX_KEPT_BYTES:
            # A single header. Most likely it is none, but some text behind a line of dashes.
            if self._data.lstrip().lower().startswith(b"content-"):
                return "a header without end"
            self._data = b"\n"
        return found

    def _look_at(self, headers: bytes) -> str | None:
        self._in_headers = False
        text = _FOLD.sub("", headers.decode("utf-8", "surrogateescape"))
        for line in text.split("\n"):
            name, _, value = line.partition(":")
            kind = name.strip().lower()
            if kind not in ("content-type", "content-disposition"):
                continue
            found = forbidden_name(value)
            if found is not None:
                return found
            if is_message(kind, value):
                self._in_headers = True  # an enclosed message: its headers follow
        return None


def is_message(name: str, value: str) -> bool:
    """Return whether a header says that an enclosed message follows."""
    return name.lower() == "content-type" and value.strip().lower().startswith("message/")


class RejectAttachment(Milter):
    """Looks at the content and refuses with words of its own."""

    def begin_message(self) -> None:
        self.scanner = AttachmentScanner()

    # These run in the event loop, since a piece of 64 KiB takes less than a millisecond. What
    # takes longer, a virus scanner say, belongs into a plain `def` handler, which gets a thread.

    async def on_header(self, name: str, value: str) -> Reply | None:
        # A message can be its own attachment, without any parts.
        if name.lower() not in ("content-type", "content-disposition"):
            return None
        if is_message(name, value):
            self.scanner = AttachmentScanner(begins_with_headers=True)
        return self.refuse(forbidden_name(value))

    async def on_body(self, chunk: bytes) -> Reply | None:
        return self.refuse(self.scanner.feed(chunk))

    async def on_eom(self, actions: EomActions) -> Reply | None:
        return self.refuse(self.scanner.finish())

    def refuse(self, found: str | None) -> Reply | None:
        """Return the refusal, if something was found; the sender reads it in the bounce."""
        if found is None:
            return None
        self.log.info("refused for %a", found[-100:])
        return Reply(
            550,
            "5.7.1",
            "This message has an attachment that is not accepted here.",
            f"These types are not: {', '.join(sorted(FORBIDDEN))}",
            "Please offer the file for download, or ask the recipient first.",
        )


if __name__ == "__main__":
    run(RejectAttachment, *(sys.argv[1:] or ["inet:9900"]))
