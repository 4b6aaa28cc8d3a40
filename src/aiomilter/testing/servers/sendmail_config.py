"""The configuration of the private Sendmail: input for m4, and what may be set in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aiomilter.aio.address import parse_address
from aiomilter.testing.servers.postfix_config import REFUSED_RECIPIENT

__all__ = ["HOST_NAME", "SERVICE_SWITCH", "check_settings", "filter_equate", "sendmail_mc"]

HOST_NAME = "mx.test.example"
"""What Sendmail calls itself."""

SERVICE_SWITCH = "hosts files\n"
"""The service switch file: no DNS."""

_FAILURE_FLAGS = ("T", "R", "4", "")
_DEFAULT_FLAG = "T"
_DEFAULT_TIMEOUTS = "C:5s;S:5s;R:10s;E:20s"

# Later defines win, and each is one line, so a setting simply follows these.
_DEFINES = {
    "confDOMAIN_NAME": HOST_NAME,
    "QUEUE_DIR": "{directory}/queue",
    "STATUS_FILE": "{directory}/statistics",
    "HELP_FILE": "",
    "ALIAS_FILE": "text:{directory}/aliases",
    "confPID_FILE": "{directory}/sendmail.pid",
    "confCONTROL_SOCKET_NAME": "",
    "confSERVICE_SWITCH_FILE": "{directory}/service.switch",
    # The highest level that is about mail; a milter's every step is at 14.
    "confLOG_LEVEL": "14",
    "confMILTER_LOG_LEVEL": "14",
    # Deliver before the reply to the end of DATA: a test then needs to wait for nothing.
    "confDELIVERY_MODE": "interactive",
    # Neither DNS nor ident.
    "confTO_IDENT": "0",
    "confTO_RESOLVER_RETRANS": "1s",
    "confTO_RESOLVER_RETRY": "1",
    "confDONT_PROBE_INTERFACES": "True",
    # A busy machine is no reason to refuse, queue or delay mail.
    "confDELAY_LA": "0",
    "confQUEUE_LA": "1000",
    "confREFUSE_LA": "1000",
    # No warnings in the header of mail that a program hands in.
    "confPRIVACY_FLAGS": "",
    # A milter's socket and the certificates may lie below /tmp.
    "confDONT_BLAME_SENDMAIL": "GroupWritableDirPathSafe,TrustStickyBit",
    "SMART_HOST": "sink:[127.0.0.1]",
    "LOCAL_RELAY": "sink:[127.0.0.1]",
    "MAIL_HUB": "sink:[127.0.0.1]",
}

# The mailer "sink" is m4's "relay" less what changes a message: no D, F and M, which add missing
# fields, no rewriting of addresses, no limit on the length of lines. Columns are tabs.
_FRAME = """\
divert(0)dnl
OSTYPE(`linux')dnl
{defines}\
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`accept_unqualified_senders')dnl
FEATURE(`no_default_msa')dnl
DAEMON_OPTIONS(`Name=MTA, Family=inet, Addr=127.0.0.1, Port={smtp_port}')dnl
INPUT_MAIL_FILTER(`aiomilter', `{equate}')dnl
MAILER_DEFINITIONS
Msink,	P=[IPC], F=muXa8h, E=\\r\\n, L=0, T=DNS/RFC822/SMTP, A=TCP $h {sink_port}
LOCAL_RULESETS
SLocal_check_rcpt
R$* {refused} $*	$#error $@ 5.7.1 $: "554 5.7.1 This recipient is refused"
"""


def check_settings(settings: Mapping[str, str], cf_directory: Path) -> None:
    """See that each setting is one that Sendmail's m4 files know.

    Args:
        settings: As ``Sendmail`` takes them.
        cf_directory: Where the package sendmail-cf keeps its files.

    Raises:
        ValueError: A key or a value is not allowed; the text says what is.
    """
    known = (cf_directory / "m4" / "proto.m4").read_text(errors="replace")
    for key, value in settings.items():
        if key not in ("F", "T") and not (key.startswith("conf") and key.isidentifier()):
            raise ValueError(
                f"setting {key!r}: allowed are F (what happens when the milter fails), T (its "
                "timeouts) and the defines of Sendmail's m4 files that begin with 'conf'"
            )
        # m4 itself takes any name, so that a slip of the pen would go unseen.
        if key.startswith("conf") and f"`{key}'" not in known:
            raise ValueError(f"setting {key!r}: Sendmail's m4 files do not use this name")
        if any(character in value for character in "`'\n"):
            raise ValueError(f"setting {key}={value!r}: no quotes and no line ends, for m4's sake")
    if settings.get("F", _DEFAULT_FLAG) not in _FAILURE_FLAGS:
        raise ValueError(
            f"setting F={settings['F']!r}: allowed are T (tempfail), R (reject), "
            "4 (hang up with 421) and the empty string (go on without the milter)"
        )


def filter_equate(milter_address: str, settings: Mapping[str, str]) -> str:
    """Return the equate that describes the milter, such as ``S=unix:/run/m.sock, F=T``.

    Args:
        milter_address: Where the milter listens.
        settings: ``F`` and ``T`` of these count.

    Raises:
        ConfigError: The address is none.
        ValueError: Sendmail cannot reach a milter there.
    """
    address = parse_address(milter_address)
    match address.kind:
        case "unix":
            socket = f"unix:{address.path}"
        case "inet" | "inet6":
            socket = f"{address.kind}:{address.port}@{address.host}"
        case "any":
            family = "inet6" if ":" in address.host else "inet"
            socket = f"{family}:{address.port}@{address.host}"
        case _:
            raise ValueError(f"{milter_address!r}: Sendmail connects to unix and inet sockets only")
    if any(character in socket for character in "`', \t\n"):
        raise ValueError(f"{milter_address!r}: no quotes, commas and blanks, for Sendmail's sake")
    parts = [f"S={socket}"]
    if flag := settings.get("F", _DEFAULT_FLAG):
        parts.append(f"F={flag}")
    if timeouts := settings.get("T", _DEFAULT_TIMEOUTS):
        parts.append(f"T={timeouts}")
    return ", ".join(parts)


def sendmail_mc(
    directory: Path, smtp_port: int, sink_port: int, equate: str, settings: Mapping[str, str]
) -> str:
    """Return the input for m4.

    Args:
        directory: Where the instance lives.
        smtp_port: The loopback port to listen on.
        sink_port: The loopback port that takes all mail.
        equate: The description of the milter.
        settings: Checked ones; those that begin with ``conf`` count.
    """
    defines = {key: value.format(directory=directory) for key, value in _DEFINES.items()}
    if "confSERVER_CERT" in settings:
        # Without both of these Sendmail offers no STARTTLS.
        defines["confCACERT"] = settings["confSERVER_CERT"]
        defines["confCACERT_PATH"] = str(directory)
    defines |= {key: value for key, value in settings.items() if key.startswith("conf")}
    return _FRAME.format(
        defines="".join(f"define(`{key}', `{value}')dnl\n" for key, value in defines.items()),
        smtp_port=smtp_port,
        equate=equate,
        sink_port=sink_port,
        refused=REFUSED_RECIPIENT.replace("@", " @ "),
    )
