"""Every exception that aiomilter raises, in one tree.

::

    MilterError                      the root: catch it to catch all of them
    ├── ProtocolError                the milter protocol was broken
    │   ├── RemoteProtocolError      by the other end of the connection
    │   └── LocalProtocolError       by the code that calls the library
    │       └── ActionNotNegotiated  an edit that this MTA did not agree to
    ├── MessageLimitExceeded         a message is too large or too intricate for what was asked
    ├── SpoolError                   a body cannot be kept: the disk is full, or not writable
    ├── MilterUnavailable            a milter cannot be reached, or is gone, or does not answer
    ├── ProcessCrashed               a process of a pool has ended without an answer
    ├── ProcessPoolFull              too many calls are waiting for a process of a pool
    └── ConfigError                  an address, an option or a class that cannot work

Rules of this file:

- A leaf exists only where somebody catches it alone.
- What came from the wire appears in a message only through `escape`: shortened, with every
  control character made visible, so that one error is one line in a log.
- A value that an author passes wrongly (a header name with a blank, a reply code of 250) is a
  plain `ValueError`, as everywhere in Python.
"""

from __future__ import annotations

__all__ = [
    "ActionNotNegotiated",
    "ConfigError",
    "LocalProtocolError",
    "MessageLimitExceeded",
    "MilterError",
    "MilterUnavailable",
    "ProcessCrashed",
    "ProcessPoolFull",
    "ProtocolError",
    "RemoteProtocolError",
    "SpoolError",
    "escape",
]


class MilterError(Exception):
    """The root of all exceptions of this library."""


class ProtocolError(MilterError):
    """The milter protocol was broken; see the two subclasses for by whom."""


class RemoteProtocolError(ProtocolError):
    """The other end sent something that the protocol does not allow.

    The connection cannot go on: its session yields the closing events and nothing else.

    Attributes:
        rule: The rule that was broken, in words.
        value: The offending bytes, whole, or None where there are none to show.
    """

    def __init__(self, rule: str, value: bytes | None = None) -> None:
        super().__init__(rule, value)
        self.rule = rule
        self.value = value

    def __str__(self) -> str:
        return self.rule if self.value is None else f"{self.rule}: {escape(self.value)}"


class LocalProtocolError(ProtocolError):
    """The calling code asked for something that the session's state does not allow.

    Nothing was sent, and the session is as it was before the call.
    """


class ActionNotNegotiated(LocalProtocolError):
    """An edit was asked for that the MTA did not offer or the milter did not request.

    Nothing was sent, and edits made earlier in the same handler are kept.

    Attributes:
        action: The name of the action that is missing, for example ``ADD_HEADER``.
    """

    def __init__(self, action: str, call: str) -> None:
        super().__init__(
            f"{call} needs the action {action}, which was not agreed with this MTA: "
            f"name it in the class attribute 'actions', so that an MTA without it is refused"
        )
        self.action = action


class MessageLimitExceeded(MilterError):
    """A message is too large or too intricate for what was asked of it.

    Whoever sends mail may send anything, and some of it would keep a parser busy for minutes. The
    message is as it was; its bytes and headers can be used all the same.
    """


class SpoolError(MilterError):
    """The body of a message cannot be kept or read: the disk is full, or not writable.

    What there was of it is closed and gone, also its descriptor. The cause is the `OSError`.
    """


class MilterUnavailable(MilterError):
    """A milter that was to be consulted cannot be reached, is gone, or does not answer in time.

    The text is one sentence: which milter, what happened, and what may help.
    """


class ProcessCrashed(MilterError):
    """The process in which a function ran has ended without an answer: a segmentation fault, say.

    Only the call that it was at is concerned. The text says how it has ended.
    """


class ProcessPoolFull(MilterError):
    """Too many calls are waiting for a process of a pool; the function was not called."""


class ConfigError(MilterError):
    """A listen address, a configuration value or a milter class that cannot work."""


def escape(value: bytes | str, limit: int = 80) -> str:
    r"""Return ``value`` for one line of a log: quoted, control characters visible, shortened.

    Args:
        value: Anything from the wire; may be empty. Text may hold lone surrogates.
        limit: The number of bytes or characters that are shown.

    Returns:
        ASCII text in quotes; of a longer value the beginning, and how much there was:
        ``'GET / HTTP\r\n'``, ``'aaaa'... (70000 in all)``.
    """
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    shown = ascii(text[:limit])
    return shown if len(text) <= limit else f"{shown}... ({len(text)} in all)"
