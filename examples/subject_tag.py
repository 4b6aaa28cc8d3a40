"""Put a tag in front of the subject of every message.

    python examples/subject_tag.py [ADDRESS ...]    by default inet:9900, on the loopback address

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`subject_tag', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/tag.sock`):

    run(SubjectTag, "unix:/var/spool/postfix/milter/tag.sock",
        config=Config(unix_group="postfix"))
"""

import sys
from email.errors import HeaderParseError
from email.header import decode_header

from aiomilter import Actions, EomActions, Milter, no_reply, run

__all__ = ["SubjectTag"]

TAG = "[external]"

MAX_DECODED_CHARS = 1_000
"""How much of a subject is decoded to look for the tag. The standard library's decoder takes time
that grows with the square of what it is given, and a subject may be as long as its sender likes."""


def has_tag(subject: str) -> bool:
    """Return whether the tag is in a subject already, as in a reply to a tagged message.

    Whoever answers in another alphabet encodes the whole subject anew (RFC 2047), tag included.
    """
    if TAG in subject:
        return True
    decoded = ""
    try:
        for part, charset in decode_header(subject[:MAX_DECODED_CHARS]):
            is_bytes = isinstance(part, bytes)
            decoded += part.decode(charset or "ascii", "replace") if is_bytes else part
    except (HeaderParseError, LookupError, ValueError):
        pass  # not what it says it is; shown as it stands by mail programs, too
    return TAG in decoded


def with_tag(subject: str) -> str:
    """Return the subject behind the tag: encoded words and folded lines stay as they are."""
    # A CR without its LF can come in, but not go out: it would be a line break to some.
    subject = subject.replace("\r\n", "\n").replace("\r", " ").strip()
    return f"{TAG} {subject}".rstrip()


class SubjectTag(Milter):
    """Changes a header."""

    actions = Actions.ADD_HEADER | Actions.CHANGE_HEADER

    def begin_message(self) -> None:
        self.subjects: list[str] = []

    @no_reply  # it only takes notes: the MTA need not wait for an answer to each header
    async def on_header(self, name: str, value: str) -> None:
        if name.lower() == "subject":
            self.subjects.append(value)

    async def on_eom(self, actions: EomActions) -> None:
        if not self.subjects:
            actions.add_header("Subject", TAG)
        # There should be one at most. Where there are more, mail programs differ in which they
        # show, so all get the tag; the index counts the headers of this name.
        for index, subject in enumerate(self.subjects, 1):
            if not has_tag(subject):
                actions.change_header("Subject", index, with_tag(subject))


if __name__ == "__main__":
    run(SubjectTag, *(sys.argv[1:] or ["inet:9900"]))
