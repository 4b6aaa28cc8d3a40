"""Log lines: one line an event, as JSON or as text, with the ids of session and message.

Rules of this file:

- One event is one line of at most 2 KiB, whatever a client has sent: control and format
  characters are escaped, long text is cut, a traceback is a list of places.
- The standard library's logging is all there is; nothing is installed unless asked for.
- What Python itself writes to stderr can come into the log as well (`capture_reports`), so that a
  collector of lines in JSON finds nothing else. What remains is the dump of `faulthandler`, which
  is written while the process dies, when no more Python can run.

For `logging.config`::

    {
        "version": 1,
        "formatters": {"json": {"()": "aiomilter.logs.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
    }
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO, cast

from aiomilter.app.context import current_context
from aiomilter.app.record import cut_text

__all__ = [
    "ContextFilter",
    "JsonFormatter",
    "LineFormatter",
    "capture_reports",
    "current_ids",
    "install",
]

_logger = logging.getLogger("aiomilter")

_MAX_BYTES = 2048
_MAX_MESSAGE_BYTES = 700
_MAX_ERROR_BYTES = 240
_MAX_PLACE_BYTES = 100
_MAX_PLACES = 5
_IDS = ("session_id", "queue_id")
_TEXT_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_TEXT_FORMAT_WITH_PROCESS = "%(asctime)s %(process)d %(levelname)s %(message)s"


def current_ids() -> tuple[str | None, str | None]:
    """Return the ids of the session and of the message that the caller works for.

    In a handler, and in the tasks and threads that it starts; elsewhere both are None. The second
    is the MTA's queue id, None as long as the MTA has not told it.
    """
    context = current_context()
    return (None, None) if context is None else (context.session_id, context.queue_id)


class ContextFilter(logging.Filter):
    """Gives every record the attributes ``session_id`` and ``queue_id``, for format strings.

    To be put on a handler: on a logger it does not see the records of loggers below. Ids that a
    record has already are left alone; without any they are ``-``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes; the record always passes."""
        session_id, queue_id = _ids_of(record)
        record.session_id = session_id or "-"
        record.queue_id = cut_text(queue_id, 64) or "-"
        return True


class JsonFormatter(logging.Formatter):
    """Makes one JSON object in one line of each record.

    Its members: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, and where they are
    known ``session_id``, ``queue_id``, ``error`` (the exception) and ``traceback`` (a list of the
    last places), and ``process`` if asked for. A line of ``aiomilter.message`` has the other
    fields of its `MessageRecord` in ``mail``, and in ``message`` only the verdict.
    """

    def __init__(self, *, show_process: bool = False) -> None:
        """Prepare.

        Args:
            show_process: Whether the number of the process is a member, too.
        """
        super().__init__()
        self._show_process = show_process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break at its end."""
        mail: object = getattr(record, "aiomilter", None)
        found: dict[str, object] = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": cut_text(record.name, _MAX_PLACE_BYTES),
        }
        if self._show_process:
            found["process"] = record.process
        if isinstance(mail, dict):
            fields = cast("dict[str, object]", mail)
            found["message"] = f"{fields.get('verdict')} at {fields.get('stage')}"
            found["mail"] = {name: fields[name] for name in fields if name not in _IDS}
        else:
            found["message"] = cut_text(_message_of(record), _MAX_MESSAGE_BYTES)
        for name, value in zip(_IDS, _ids_of(record), strict=True):
            if value is not None:
                found[name] = cut_text(value, 64)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            found["error"] = _describe(error)
            found["traceback"] = _places(error.__traceback__)
        return json.dumps(found, ensure_ascii=False, default=str)


class LineFormatter(logging.Formatter):
    """Makes one line of text of each record, a traceback included; the format is up to you."""

    def __init__(self, fmt: str = _TEXT_FORMAT, datefmt: str | None = None) -> None:
        """Prepare.

        Args:
            fmt: As for `logging.Formatter`.
            datefmt: As for `logging.Formatter`.
        """
        super().__init__(fmt, datefmt)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break at its end."""
        error = record.exc_info[1] if record.exc_info else None
        # A copy: other handlers want the traceback as it is. Hot path: `logging.makeLogRecord`
        # would first make a record of nothing.
        plain = logging.LogRecord.__new__(logging.LogRecord)
        plain.__dict__.update(record.__dict__)
        plain.msg, plain.args = _message_of(record), ()
        plain.exc_info = plain.exc_text = plain.stack_info = None
        line = super().format(plain)
        if error is not None:
            line += f" | {_describe(error)} | {' < '.join(reversed(_places(error.__traceback__)))}"
        return cut_text(line, _MAX_BYTES - 1, for_json=False) or ""


def install(
    log_format: Literal["text", "json"] = "text",
    level: int | str = logging.INFO,
    stream: TextIO | None = None,
    *,
    show_process: bool = False,
) -> logging.Handler:
    """Log from the root logger to a stream, one line an event.

    Args:
        log_format: ``text`` or ``json``.
        level: The least level that is logged.
        stream: None for stderr.
        show_process: Whether each line tells the number of its process.

    Returns:
        The handler, which was added to those of the root logger.

    Raises:
        ValueError: The format is none of the two, or the level is none.
    """
    if log_format not in ("text", "json"):
        raise ValueError(f"the log format is text or json, not {log_format!r}")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.addFilter(ContextFilter())
    if log_format == "json":
        handler.setFormatter(JsonFormatter(show_process=show_process))
    else:
        handler.setFormatter(
            LineFormatter(_TEXT_FORMAT_WITH_PROCESS if show_process else _TEXT_FORMAT)
        )
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(handler)
    return handler


def capture_reports() -> None:
    """Log what Python itself would write to stderr.

    Warnings (as ``py.warnings``), and as ``aiomilter`` the exceptions that nobody handles: in the
    main thread, in other threads, and where Python can only ignore them.
    """
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_in_thread
    sys.unraisablehook = _log_unraisable


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _logger.critical("ended by %s", _describe(error), exc_info=(kind, error, trace))


def _log_in_thread(report: threading.ExceptHookArgs, /) -> None:
    error = report.exc_value
    if error is None or isinstance(error, SystemExit):
        # To end a thread by that is no fault.
        return
    name = report.thread.name if report.thread is not None else "a thread"
    text = "the thread %s was ended by %s"
    _logger.error(text, name, _describe(error), exc_info=(type(error), error, report.exc_traceback))


def _log_unraisable(report: sys.UnraisableHookArgs, /) -> None:
    # Not the object itself: its text is anybody's code, and it may be half gone.
    where = getattr(report.object, "__qualname__", type(report.object).__qualname__)
    error = report.exc_value
    _logger.error(
        "%s in %s: %s",
        report.err_msg or "an exception was ignored",
        where,
        report.exc_type.__name__ if error is None else _describe(error),
        exc_info=None if error is None else (type(error), error, report.exc_traceback),
    )


def _ids_of(record: logging.LogRecord) -> tuple[str | None, str | None]:
    """Return the ids that a record has, or else those of the context that it is handled in."""
    session_id: object = getattr(record, "session_id", None)
    if session_id is not None:
        queue_id: object = getattr(record, "queue_id", None)
        return _id(session_id), _id(queue_id)
    return current_ids()


def _id(value: object) -> str | None:
    return None if value is None or value == "-" else str(value)


def _time_of(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message_of(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
        # The second line of a warning is source.
        return text.partition("\n")[0] if record.name == "py.warnings" else text
    except Exception:  # noqa: BLE001  (arguments that do not go with the text, of anybody's)
        return f"{record.msg!s} (with arguments that do not fit)"


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  (the exception is anybody's, and so is its __str__)
        text = "(its text cannot be shown)"
    return cut_text(f"{name}: {text}" if text else name, _MAX_ERROR_BYTES) or name


def _places(trace: TracebackType | None) -> list[str]:
    """Return the last places of a traceback, the innermost last: ``file:line function``."""
    found: list[str] = []
    for frame, line in list(traceback.walk_tb(trace))[-_MAX_PLACES:]:
        code = frame.f_code
        name = "/".join(code.co_filename.rsplit("/", 2)[-2:])
        found.append(cut_text(f"{name}:{line} {code.co_name}", _MAX_PLACE_BYTES) or "")
    return found
