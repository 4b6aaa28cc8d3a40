"""Settings of `aiomilter run`: the command line, the file, the defaults."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aiomilter import Config, Status
from aiomilter.cli.commands import aiomilter
from aiomilter.cli.console import CommandError
from aiomilter.cli.settings import Settings, config_options, settings_as_toml, settings_of

NEEDED = {"milter": "m:C", "listen": ("inet:0",)}


def from_file(tmp_path: Path, text: str, **given: object) -> Settings:
    path = tmp_path / "milter.toml"
    path.write_text(text, encoding="utf-8")
    return settings_of(given, path)


def test_there_is_an_option_for_each_field_with_its_default_and_text() -> None:
    options = {option.name: option for option in config_options()}
    texts: dict[str, str] = {}
    assert list(options) == [field.name for field in fields(Config)]
    for field in fields(Config):
        option = options[field.name]
        assert isinstance(option, click.Option)
        assert option.opts == [f"--{field.name.replace('_', '-')}"]
        assert option.help
        texts[field.name] = option.help
        assert ("[default: " in option.help) is (field.default not in (MISSING, None))
    assert texts["unix_mode"].endswith("[default: 0660]")
    assert texts["on_error"].endswith("[default: tempfail]")
    assert texts["write_timeout"] == "How long the MTA may leave an answer unread. [default: 30]"


def test_the_help_has_a_section_for_them() -> None:
    output = CliRunner().invoke(aiomilter, ["run", "--help"]).output
    options, settings = output.split("Settings of the server, times in seconds:\n")
    assert "--listen ADDRESS" in options
    assert "--idle-timeout SECONDS" in settings
    assert "--unix-mode MODE" in settings


def test_without_anything_the_defaults_count() -> None:
    settings = settings_of({**NEEDED, "uvloop": None, "idle_timeout": None}, None)
    assert settings.config == Config()
    assert (settings.milter, settings.listen) == ("m:C", ("inet:0",))
    assert (settings.uvloop, settings.log_level, settings.lifespan) == (None, None, None)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    text = 'milter = "m:C"\nlisten = "inet:1"\nbacklog = 7\nidle-timeout = 5\nuvloop = false\n'
    settings = from_file(tmp_path, text, listen=("inet:2", "inet:3"), backlog=8, milter=None)
    assert settings.listen == ("inet:2", "inet:3")
    assert settings.config == Config(backlog=8, idle_timeout=5)
    assert settings.uvloop is False
    assert settings.origins["backlog"] == "command line"
    assert settings.origins["idle_timeout"] == str(tmp_path / "milter.toml")
    # An option that may be repeated is empty, not missing, if it is not given.
    assert from_file(tmp_path, text, listen=()).listen == ("inet:1",)


def test_an_address_may_be_missing(tmp_path: Path) -> None:
    settings = from_file(tmp_path, 'milter = "m:C"')
    assert settings.listen == ()
    assert "# listen is not set" in settings_as_toml(settings)


def test_a_file_may_have_everything(tmp_path: Path) -> None:
    settings = from_file(
        tmp_path,
        """
        milter = "m:C"
        listen = ["inet:1", "unix:/run/m.sock"]
        lifespan = "m:life"
        log-level = "DEBUG"
        on_error = "Accept"
        unix_mode = "0600"
        unix_group = 12
        unix_owner = "root"
        """,
    )
    assert settings.listen == ("inet:1", "unix:/run/m.sock")
    assert (settings.lifespan, settings.log_level) == ("m:life", "debug")
    assert settings.config == Config(
        on_error=Status.ACCEPT, unix_mode=0o600, unix_group=12, unix_owner="root"
    )


def test_beside_a_table_of_its_own_the_rest_is_the_milters(tmp_path: Path) -> None:
    text = 'greeting = "x"\n[aiomilter]\nmilter = "m:C"\nlisten = "inet:0"\n[other]\ny = 1\n'
    assert from_file(tmp_path, text).milter == "m:C"


@pytest.mark.parametrize("mode", ['"0640"', '"640"', '"0o640"', "0o640"])
def test_a_mode_is_octal(tmp_path: Path, mode: str) -> None:
    assert from_file(tmp_path, f"unix_mode = {mode}", **NEEDED).config.unix_mode == 0o640


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("idle_timout = 5", ("{path}: there is no setting 'idle_timout'; did you mean "
         "'idle_timeout'?")),
        ("zzz = 5", "{path}: there is no setting 'zzz'; there are milter, listen, lifespan,"),
        ("backlog = '10'", "{path}: backlog is a whole number, not '10'"),
        ("backlog = true", "{path}: backlog is a whole number, not True"),
        ("backlog = 0", "{path}: backlog is at least 1"),
        ("idle_timeout = true", "{path}: idle_timeout is a number of seconds, not True"),
        ("idle_timeout = inf", "{path}: idle_timeout is a number of seconds above 0, not inf"),
        ("on_error = 'drop'", ("{path}: on_error is one of tempfail, reject, accept, continue, "
         "not 'drop'")),
        ("on_error = 4", "{path}: on_error is one of tempfail, reject, accept, continue, not 4"),
        ("unix_mode = 660", '{path}: unix_mode is octal: write "0660" instead of 660'),
        ("backlog = 2026-01-02", "{path}: backlog is a whole number, not the date 2026-01-02"),
        ("milter = 2026-01-02T03:04:05", ("{path}: milter is a text in quotes, not the date and "
         "time 2026-01-02 03:04:05")),
        ("uvloop = 03:04:05", "{path}: uvloop is true or false, not the time 03:04:05"),
        ("unix_mode = '9'", "{path}: unix_mode is octal permissions, as in \"0660\" or 0o660"),
        ("unix_mode = 1.5", "{path}: unix_mode is octal permissions"),
        ("unix_group = 1.5", "{path}: unix_group is a name or number, not 1.5"),
        ("listen = 8890", "{path}: listen is an address in quotes, or a list of them, not 8890"),
        ("listen = [1]", "{path}: listen is an address in quotes, or a list of them, not [1]"),
        ("listen = 'inet:x'", "{path}: 'inet:x': 'x' is no port"),
        ("milter = 1", "{path}: milter is a text in quotes, not 1"),
        ("uvloop = 'yes'", "{path}: uvloop is true or false, not 'yes'"),
        ("log_level = 'loud'", "{path}: log_level is one of debug, info, "),
        ("idle-timeout = 1\nidle_timeout = 2", "{path}: idle_timeout stands there twice"),
        ("backlog = 1\n[aiomilter]\n", "{path}: backlog stands outside of [aiomilter]"),
        ("aiomilter = 1", "{path}: aiomilter is a table, [aiomilter], not 1"),
        ("backlog = ", "{path} is no TOML: "),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(CommandError) as caught:
        from_file(tmp_path, text, **NEEDED)
    assert caught.value.message.startswith(
        sentence.replace("{path}", str(tmp_path / "milter.toml"))
    )
    assert caught.value.exit_code == 2


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^cannot read .*none.toml: No such file"):
        settings_of(NEEDED, tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"milter = '\xe9'")
    with pytest.raises(CommandError, match=r"is no TOML: it is not in UTF-8"):
        settings_of(NEEDED, tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"listen": ("inet:0",)}, "no milter to run: "),
        ({**NEEDED, "listen": ("nonsense",)}, "--listen: 'nonsense' is no address"),
        ({**NEEDED, "max_threads": 0}, "--max-threads: max_threads is at least 1"),
        ({**NEEDED, "unix_mode": "8"}, "--unix-mode: unix_mode is octal permissions"),
        ({**NEEDED, "idle_timeout": float("nan")}, "--idle-timeout: idle_timeout is a number"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(CommandError) as caught:
        settings_of(given, None)
    assert caught.value.message.startswith(sentence)


def test_settings_are_shown_as_a_file_that_says_the_same(tmp_path: Path) -> None:
    given = {**NEEDED, "unix_mode": "0o600", "on_error": "REJECT", "unix_group": "mail"}
    settings = settings_of(given, None)
    shown = settings_as_toml(settings)
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert {'unix_mode = "0600" # command line', "backlog = 1024 # default"} <= lines
    assert "# unix_owner is not set" in shown
    assert tomllib.loads(shown)["on_error"] == "reject"
    again = from_file(tmp_path, shown)
    assert (again.milter, again.listen, again.config) == ("m:C", ("inet:0",), settings.config)
