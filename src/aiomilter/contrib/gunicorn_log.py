"""gunicorn's log, as part of ours."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.config import Config as GunicornConfig
from gunicorn.glogging import Logger

__all__ = ["ArbiterLog"]

_logger = logging.getLogger("aiomilter")


class ArbiterLog(Logger):
    """Hands gunicorn's lines to the logger ``aiomilter``, and sets up nothing.

    What gunicorn says at the level INFO is about each signal and process, beside our own lines
    about the same: it goes down to DEBUG.
    """

    def setup(self, cfg: GunicornConfig) -> None:
        """Leave logging as the program has set it up."""
        self.error_log = _logger
        self.access_log = logging.getLogger("aiomilter.access")

    # gunicorn hands in whatever logging takes.
    def info(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log a line at the level DEBUG."""
        _logger.debug(msg, *args, **kwargs)

    def reopen_files(self) -> None:
        """Open log files anew, after logrotate has moved them away."""
        for handler in _handlers():
            if isinstance(handler, logging.FileHandler):
                handler.acquire()
                try:
                    stream = handler.stream
                    # It opens its file again with its next line.
                    handler.stream = None  # pyright: ignore[reportAttributeAccessIssue]  (typeshed leaves None out)
                    if stream is not None:  # pyright: ignore[reportUnnecessaryComparison]  (the same)
                        stream.close()
                finally:
                    handler.release()

    def close_on_exec(self) -> None:
        """Do nothing: files of Python are closed in programs that are started."""


def _handlers() -> list[logging.Handler]:
    found = list(logging.getLogger().handlers)
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            found += logger.handlers
    return found
