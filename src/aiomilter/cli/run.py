"""``aiomilter run``: serve a milter, from a class in a module."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from aiomilter import logs
from aiomilter.aio.metrics_http import MetricsServer, parse_metrics_address
from aiomilter.aio.runner import FailedError, new_event_loop, run_until_signal
from aiomilter.aio.server import Lifespan, MilterFactory, Server
from aiomilter.app.compose import Composition
from aiomilter.app.handlers import handler_table
from aiomilter.app.milter import Milter
from aiomilter.cli.console import CommandError, complain, speak_json, warnings_as_lines
from aiomilter.cli.listening import advice_about
from aiomilter.cli.loading import (
    load_lifespan,
    load_milter,
    parse_target,
    source_folder,
    try_factory,
)
from aiomilter.cli.settings import (
    CONFIG_NAMES,
    CRASH_VERDICTS,
    LOG_FORMATS,
    LOG_LEVELS,
    Settings,
    config_options,
    is_json_asked_for,
    is_json_wanted,
    settings_as_toml,
    settings_of,
)
from aiomilter.errors import ConfigError

if TYPE_CHECKING:
    from aiomilter.contrib.prometheus import PrometheusObserver

__all__ = ["run"]

_ARGUMENTS = "aiomilter.cli.run.arguments"


class _Run(click.Command):
    """Keeps the arguments as they were, and shows the settings of the server by themselves."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        # Ahead of the first error that there may be.
        speak_json(is_json_asked_for(args))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options: list[tuple[str, str]] = []
        of_the_server: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                (of_the_server if param.name in CONFIG_NAMES else options).append(record)
        with formatter.section("Options"):
            formatter.write_dl(options)
        with formatter.section("Settings of the server, times in seconds"):
            formatter.write_dl(of_the_server)


@click.command(cls=_Run, params=config_options())
@click.argument("milter", metavar="[MODULE:CLASS]", required=False)
@click.option("--listen", multiple=True, metavar="ADDRESS", help="Where to listen; repeatable.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Take settings from a file: milter, listen, lifespan, uvloop, log_level and those of the "
    "server, at its top level or in a table [aiomilter]. The command line wins.",
)
@click.option(
    "--lifespan",
    metavar="MODULE:NAME",
    help="An asynchronous context manager, or a function that returns one, around serving.",
)
@click.option(
    "--workers",
    type=click.INT,
    metavar="NUMBER",
    help="Serve with so many processes, each of which loads the milter; SIGHUP replaces them by "
    "new ones without losing a connection. Limits are those of each.",
)
@click.option(
    "--worker-timeout",
    type=click.FLOAT,
    metavar="SECONDS",
    help="How long the event loop of a worker may be blocked before it is killed. [default: 30]",
)
@click.option(
    "--start-timeout",
    type=click.FLOAT,
    metavar="SECONDS",
    help="How long the start of a worker may take, its lifespan included. [default: 300]",
)
@click.option(
    "--crash-limit",
    type=click.INT,
    metavar="NUMBER",
    help="How many workers a message may end before it no longer reaches the milter. [default: 3]",
)
@click.option(
    "--crash-verdict",
    type=click.Choice(CRASH_VERDICTS, case_sensitive=False),
    help="What such a message gets instead. [default: tempfail]",
)
@click.option("--check", is_flag=True, help="Load everything, show the settings, and end.")
@click.option("--reload", is_flag=True, help="Start anew when a file changes, for development.")
@click.option(
    "--uvloop/--no-uvloop",
    default=None,
    help="Whether to use uvloop. [default: if it is installed]",
)
@click.option(
    "--log-level",
    type=LOG_LEVELS,
    help="From which level on to log. [default: info, or what the milter's module sets up]",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS, case_sensitive=False),
    help="How to log; json is one object a line. [default: text]",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve /metrics for Prometheus, and /healthz, there.",
)
@click.pass_context
def run(
    ctx: click.Context, /, config_file: Path | None, *, check: bool, reload: bool, **given: object
) -> None:
    """Run a milter until SIGTERM or Ctrl-C, which let messages in progress finish.

    The module is looked for in the current folder first; a file will do as well, as in
    filters/greylist.py:Greylist. CLASS can be left out if there is only one milter in the module.
    A function without arguments that returns a milter serves, too.
    """
    speak_json(is_json_wanted(given, config_file))
    settings = settings_of(given, config_file)
    if check:
        _check(settings)
    elif reload:
        if settings.workers is not None:
            raise CommandError("--reload is for development, with one process: leave --workers out")
        _reload(settings, config_file, ctx.meta[_ARGUMENTS])
    elif settings.workers is not None:
        _require_address(settings)
        # Late, as it needs gunicorn.
        from aiomilter.cli.workers import run_with_workers

        run_with_workers(settings, lambda: _set_up_logging(settings))
    else:
        _serve(settings)


def _load(settings: Settings) -> tuple[MilterFactory, Lifespan | None]:
    with warnings_as_lines():
        factory = load_milter(settings.milter)
        return factory, load_lifespan(settings.lifespan) if settings.lifespan else None


def _serve(settings: Settings) -> None:
    factory, lifespan = _load(settings)
    _require_address(settings)
    _set_up_logging(settings)
    observer = metrics = None
    if settings.metrics is not None:
        observer = _metrics_observer()
        metrics = MetricsServer(observer.render, *parse_metrics_address(settings.metrics))
    try:
        run_until_signal(
            factory,
            *settings.listen,
            config=settings.config,
            lifespan=lambda: _tried(factory, settings.milter, lifespan),
            uvloop=settings.uvloop,
            observers=() if observer is None else (observer,),
            metrics=metrics,
        )
    except ConfigError as error:
        if isinstance(error.__cause__, CommandError):
            raise error.__cause__ from None
        raise CommandError(f"{error}{advice_about(error)}") from error
    except FailedError:
        # The log has said why.
        raise SystemExit(CommandError.exit_code) from None


def _check(settings: Settings) -> None:
    """Do everything short of listening."""
    factory, lifespan = _load(settings)
    try:
        Server(factory, *settings.listen, config=settings.config, lifespan=lifespan)
        loop = new_event_loop(settings.uvloop)
    except ConfigError as error:
        raise CommandError(str(error)) from error
    try:
        if lifespan is None:
            loop.run_until_complete(_try(factory, settings.milter))
    finally:
        loop.close()
    click.echo(settings_as_toml(settings))
    complain(f"all right: {_description(factory)}")
    if lifespan is not None:
        complain("the lifespan was not entered, and so no milter made: it may need the lifespan")
    if not settings.listen:
        complain(
            "there is no address to listen on yet; serving needs one, as in --listen inet:8890"
        )


async def _try(factory: MilterFactory, name: str) -> None:
    try_factory(factory, name)


@contextlib.asynccontextmanager
async def _tried(
    factory: MilterFactory, name: str, lifespan: Lifespan | None
) -> AsyncGenerator[None]:
    """Within the lifespan, which the factory may need, have a milter made before one is wanted."""
    async with contextlib.AsyncExitStack() as stack:
        if lifespan is not None:
            await stack.enter_async_context(_manager_of(lifespan))
        try:
            try_factory(factory, name)
        except CommandError as error:
            # Which the runner knows for what it is.
            raise ConfigError(error.message) from error
        yield


def _metrics_observer() -> PrometheusObserver:
    try:
        # Late, as it needs prometheus_client.
        from aiomilter.contrib.prometheus import PrometheusObserver
    except ImportError as error:
        raise CommandError("--metrics needs more: pip install 'aiomilter[prometheus]'") from error
    return PrometheusObserver()


def _manager_of(lifespan: Lifespan) -> AbstractAsyncContextManager[object]:
    if isinstance(lifespan, AbstractAsyncContextManager):
        return lifespan  # pyright: ignore[reportUnknownVariableType]  (it is a class's argument)
    return lifespan()


def _require_address(settings: Settings) -> None:
    if not settings.listen:
        raise CommandError(
            "no address to listen on: add one, as in --listen inet:8890 or --listen "
            'unix:/run/my.sock, or listen = "inet:8890" in the file that --config names'
        )


def _reload(settings: Settings, config_file: Path | None, arguments: list[str]) -> None:
    _require_address(settings)
    try:
        from aiomilter.cli.reload import reload_on_change
    except ImportError as error:
        if error.name != "watchfiles":
            raise
        raise CommandError("--reload needs watchfiles: pip install 'aiomilter[cli]'") from error

    folder = source_folder(parse_target(settings.milter))
    # Without -P Python itself would look for its modules in the current folder.
    command = [sys.executable, "-P", "-m", "aiomilter.cli", "run"]
    command += [argument for argument in arguments if argument != "--reload"]
    reload_on_change(command, folder, config_file, settings.config.stop_grace)


def _set_up_logging(settings: Settings) -> None:
    """Log to stderr, unless the milter's module has set up logging by itself."""
    root, level = logging.getLogger(), settings.log_level
    if not root.hasHandlers():
        log_format: Literal["text", "json"] = "json" if settings.log_format == "json" else "text"
        show_process = settings.workers is not None
        logs.install(log_format, (level or "info").upper(), show_process=show_process)
        logs.capture_reports()
    elif level is not None:
        root.setLevel(level.upper())


def _description(factory: MilterFactory) -> str:
    if isinstance(factory, Composition):
        return f"{factory} makes the milters of each session"
    if not (isinstance(factory, type) and issubclass(factory, Milter)):
        return "a function makes the milter of each session"
    handlers = ", ".join(handler_table(factory).by_name) or "nothing, so that all mail passes"
    return f"{factory.__qualname__} handles {handlers}"
