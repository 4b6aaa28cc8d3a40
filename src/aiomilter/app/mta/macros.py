"""The macros that an MTA sends, by stage.

Rules of this file:

- Which macros stand at a stage is what the milter has asked for, else the default of the MTA:
  Postfix's ``milter_*_macros`` and Sendmail's ``confMILTER_MACROS_*``. Asking for none means the
  default to Postfix, and none to Sendmail, where the end of the message keeps its default.
- Postfix sends a packet of macros ahead of every command; Sendmail ahead of CONNECT, HELO, MAIL,
  RCPT and the end of the message, or where the milter asks for some. Both also send one in which no
  macro has a value.
- A macro without a value is left out. The queue id (``i``) has one from MAIL on in Sendmail, in
  Postfix from the first accepted recipient on.
- Values that a caller has given come first. Those that no list names go with CONNECT and MAIL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aiomilter.app.mta.envelope import Client, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.text import encode_text
from aiomilter.spec import COMMAND_BY_LETTER, MacroStage
from aiomilter.wire.commands import Macro
from aiomilter.wire.replies import Negotiated

__all__ = ["MacroSource", "default_macros", "normalise_name"]

_TLS = ("{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}", "{cert_issuer}")
_AUTH = ("{auth_type}", "{auth_authen}", "{auth_author}")

_DEFAULTS: dict[Mta, dict[bytes, tuple[str, ...]]] = {
    Mta.POSTFIX: {
        b"C": ("j", "{daemon_name}", "{daemon_addr}", "v", "_"),
        b"H": _TLS,
        b"M": ("i", *_AUTH, "{mail_addr}", "{mail_host}", "{mail_mailer}"),
        b"R": ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
        b"T": ("i",),
        b"L": ("i",),
        b"N": ("i",),
        b"B": ("i",),
        b"E": ("i",),
        b"U": (),
    },
    Mta.SENDMAIL: {
        b"C": ("j", "_", "{daemon_name}", "{if_name}", "{if_addr}"),
        b"H": (*_TLS,),
        b"M": ("i", *_AUTH, "{auth_ssf}", "{mail_mailer}", "{mail_host}", "{mail_addr}"),
        b"R": ("{rcpt_mailer}", "{rcpt_host}", "{rcpt_addr}"),
        b"E": ("{msg_id}",),
    },
}
"""By command; a command that is not there has no packet of macros by default."""


def default_macros(stage: MacroStage) -> list[str]:
    """Return what either MTA sends at a stage if it is not asked for anything else."""
    letter = next(row.letter for row in COMMAND_BY_LETTER.values() if row.macro_stage is stage)
    return list(
        dict.fromkeys(name for lists in _DEFAULTS.values() for name in lists.get(letter, ()))
    )


_HOST = "mx.example.org"
_WITHOUT_LIST = (b"C", b"M")


def normalise_name(name: str) -> str:
    """Return the name of a macro as it stands on the wire: ``i``, but ``{auth_authen}``."""
    bare = name.removeprefix("{").removesuffix("}")
    return bare if len(bare) == 1 else f"{{{bare}}}"


class MacroSource:
    """What an MTA can tell in macros, about one client and one message at a time."""

    def __init__(self, mta: Mta) -> None:
        self._mta = mta
        self._lists = _DEFAULTS[mta]
        self._session: dict[str, str] = {}
        self._message: dict[str, str] = {}
        self._given: dict[str, str] = {}
        self._queue_id = ""

    def give(self, values: Mapping[str, str]) -> None:
        """Take values that come ahead of all others, by name, with or without braces."""
        self._given = {normalise_name(name): value for name, value in values.items()}

    def begin_session(self, client: Client) -> None:
        """Know the client."""
        address = client.address_of(self._mta) or "unknown"
        # A client without a name goes by its address in brackets, but not in Postfix's macros.
        is_nameless = self._mta is Mta.POSTFIX and client.hostname.startswith("[")
        name = "unknown" if is_nameless else client.hostname
        self._message = {}
        self._session = {
            "j": _HOST,
            "v": "Postfix 3.7.11" if self._mta is Mta.POSTFIX else "8.17.1.9",
            "_": f"{name} [{address}]",
            "{daemon_name}": _HOST if self._mta is Mta.POSTFIX else "MTA",
            "{daemon_addr}": "127.0.0.1",
            "{daemon_port}": "25",
            "{if_name}": _HOST,
            "{client_addr}": address,
            "{client_name}": name,
            "{client_ptr}": name,
            "{client_port}": str(client.port),
            "{client_connections}": "0",
        }

    def begin_message(self, sender: Path, queue_id: str) -> None:
        """Know the sender, and the queue id that the message will have."""
        self._message = {f"{{mail_{what}}}": text for what, text in _resolve(sender)}
        self._message["{msg_id}"] = f"<{queue_id}@{_HOST}>"
        self._queue_id = queue_id
        if self._mta is Mta.SENDMAIL:
            self.name_queue_file()

    def name_queue_file(self) -> None:
        """Have a queue id: the first recipient has been accepted."""
        self._message["i"] = self._queue_id

    def begin_recipient(self, recipient: Path) -> None:
        """Know the recipient that is asked about."""
        self._message |= {f"{{rcpt_{what}}}": text for what, text in _resolve(recipient)}

    def end_recipients(self) -> None:
        """Forget the recipient."""
        for what in ("addr", "host", "mailer"):
            self._message.pop(f"{{rcpt_{what}}}", None)

    def packet(self, letter: bytes, agreed: Negotiated) -> Macro | None:
        """Return the macros that go ahead of a command, or None if there is no packet."""
        names = self._names(letter, agreed)
        if names is None:
            return None
        values = self._session | self._message | self._given
        pairs = [(name, values.get(normalise_name(name))) for name in names]
        if letter in _WITHOUT_LIST:
            pairs += [(name, self._given[name]) for name in self._unlisted(agreed)]
        strings = [
            encode_text(text, "a macro")
            for name, value in pairs
            if value is not None
            for text in (name, value)
        ]
        if not pairs and self._mta is Mta.SENDMAIL:
            return None
        return Macro(letter, strings)

    def _names(self, letter: bytes, agreed: Negotiated) -> list[str] | None:
        stage = COMMAND_BY_LETTER[letter[0]].macro_stage
        if stage is not None and stage in agreed.macros:
            asked = _asked(agreed, stage)
            if asked or (self._mta is Mta.SENDMAIL and letter != b"E"):
                return asked
        if letter == b"B" and self._mta is Mta.POSTFIX:
            # Postfix's list for the end of a message also goes with the pieces of the body.
            return self._names(b"E", agreed)
        default = self._lists.get(letter)
        return None if default is None else list(default)

    def _unlisted(self, agreed: Negotiated) -> Iterator[str]:
        """Return the names of given values that stand at no stage."""
        listed = {
            normalise_name(name)
            for row in COMMAND_BY_LETTER.values()
            for name in self._names(row.letter, agreed) or ()
        }
        return (name for name in self._given if name not in listed)


def _asked(agreed: Negotiated, stage: MacroStage) -> list[str]:
    return [name.decode("utf-8", "surrogateescape") for name in agreed.macros_at(stage)]


def _resolve(path: Path) -> list[tuple[str, str]]:
    """Return address, host and mailer of an address, as an MTA resolves it."""
    address = path.address.removeprefix("<").removesuffix(">")
    return [
        ("addr", address),
        ("host", address.rpartition("@")[2] if "@" in address else ""),
        ("mailer", "smtp" if "@" in address else "local"),
    ]
