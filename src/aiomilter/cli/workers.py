"""``aiomilter run --workers``: what is served by several processes, loaded in each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiomilter.aio.metrics_http import parse_metrics_address
from aiomilter.cli.console import CommandError
from aiomilter.cli.listening import advice_about
from aiomilter.cli.loading import load_lifespan, load_milter
from aiomilter.cli.settings import Settings
from aiomilter.errors import ConfigError
from aiomilter.session.status import Status

__all__ = ["run_with_workers"]


def run_with_workers(settings: Settings, set_up_logging: Callable[[], None]) -> None:
    """Serve with several processes until a signal; does not return.

    Args:
        settings: What to serve; ``workers`` is set.
        set_up_logging: Sets it up, unless that has been done.

    Raises:
        CommandError: Something cannot work.
    """
    try:
        from aiomilter.contrib.gunicorn import run_workers_with
        from aiomilter.contrib.gunicorn_worker import Served, WorkerSettings
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "gunicorn":
            raise
        raise CommandError("--workers needs gunicorn: pip install 'aiomilter[workers]'") from error

    root = logging.getLogger()
    before = list(root.handlers)
    set_up_logging()

    def load() -> Served:
        # A milter's module may set up logging by itself, and then ours is not to be in its way.
        ours = [handler for handler in root.handlers if handler not in before]
        for handler in ours:
            root.removeHandler(handler)
        try:
            factory = load_milter(settings.milter)
            return Served(factory, load_lifespan(settings.lifespan) if settings.lifespan else None)
        except CommandError as error:
            raise ConfigError(error.message) from error
        finally:
            if not root.handlers:
                for handler in ours:
                    root.addHandler(handler)

    try:
        run_workers_with(
            WorkerSettings(
                load=load,
                listen=settings.listen,
                workers=settings.workers or 1,
                config=settings.config,
                uvloop=settings.uvloop,
                worker_timeout=settings.worker_timeout,
                start_timeout=settings.start_timeout,
                metrics=parse_metrics_address(settings.metrics) if settings.metrics else None,
                crash_limit=settings.crash_limit,
                crash_verdict=Status[settings.crash_verdict.upper()],
            )
        )
    except ConfigError as error:
        raise CommandError(f"{error}{advice_about(error)}") from error
