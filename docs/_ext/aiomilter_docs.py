"""Directives of this documentation, which draw their content from the library itself.

    ```{protocol-table} commands      the rows of aiomilter.spec
    ```{config-table}                 the settings of aiomilter.Config
    ```{command-help} run             the options of a command, from click
    ```{commands-table}               all commands

So a table here cannot say anything else than the code. What has no description is a warning, and
a warning is an error.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from typing import Any

import click
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from aiomilter import Config, spec
from aiomilter.aio import config as config_module
from aiomilter.cli.commands import aiomilter
from aiomilter.session.status import Status

__all__ = ["descriptions", "setup"]

Row = Sequence[str]
_LITERAL = re.compile(r"``?([^`]+)``?")
_FLAG = re.compile(r'^    (\w+) = 0x\w+\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
_CONSTANT = re.compile(r'^(\w+) = [^\n]*\n"""(.*?)"""', re.MULTILINE | re.DOTALL)
_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)


def inline(text: str) -> list[nodes.Node]:
    """Return text with what stands between backquotes as code."""
    found: list[nodes.Node] = []
    position = 0
    for match in _LITERAL.finditer(text):
        found.append(nodes.Text(text[position : match.start()]))
        found.append(nodes.literal(text=match[1]))
        position = match.end()
    found.append(nodes.Text(text[position:]))
    return found


def paragraph(text: str) -> nodes.paragraph:
    """Return a paragraph."""
    return nodes.paragraph("", "", *inline(text))


def table(titles: Row, widths: Sequence[int], rows: Iterable[Row], name: str) -> nodes.table:
    """Return a table; ``name`` is for its rows, which can be linked to, and for its looks."""
    group = nodes.tgroup(cols=len(titles))
    group += [nodes.colspec(colwidth=width) for width in widths]
    head = nodes.thead()
    head += _row(titles)
    body = nodes.tbody()
    for cells in rows:
        row = _row(cells)
        row["ids"] = [nodes.make_id(f"{name}-{re.sub(r'[`]', '', cells[0])}")]
        body += row
    group += [head, body]
    result = nodes.table(classes=["generated", f"of-{name}"])
    result += group
    return result


def _row(cells: Row) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += paragraph(cell)
        row += entry
    return row


def descriptions(owner: type) -> dict[str, str]:
    """Return what the section "Attributes" of a docstring says, by name."""
    text = inspect.getdoc(owner) or ""
    section = ("    " + text.replace("\n", "\n    ")).partition("Attributes:\n")[2]
    return {name: " ".join(words.split()) for name, words in _ATTRIBUTE.findall(section)}


# The protocol


def _flags(flag_type: type[spec.Actions | spec.Options]) -> list[Row]:
    source = inspect.getsource(flag_type)
    said = dict(_FLAG.findall(source))
    return [(f"`{flag.name}`", f"`{flag.value:#x}`", said.get(flag.name, "")) for flag in flag_type]


def _name(flag: spec.Actions | spec.Options | spec.MacroStage | None) -> str:
    return "" if flag is None else f"`{flag.name}`"


def _letters(letters: Iterable[bytes]) -> str:
    return " ".join(f"`{letter.decode()}`" for letter in sorted(letters))


def _commands() -> list[Row]:
    return [
        (
            f"`{row.letter.decode()}`",
            f"{row.name} (`{row.libmilter}`)",
            ", ".join(state.name.lower() for state in sorted(row.follows))
            if len(row.follows) < len(spec.State)
            else "any",
            _letters(row.replies) or "none",
            _name(row.no_option),
            _name(row.no_reply_option),
            _name(row.macro_stage),
            str(row.since),
        )
        for row in spec.COMMANDS
    ]


def _replies() -> list[Row]:
    return [
        (
            f"`{row.letter.decode()}`",
            f"{row.name} (`{row.libmilter}`)",
            row.kind.name.lower(),
            _name(row.action),
            "yes" if row.has_payload else "no",
            str(row.since),
        )
        for row in spec.REPLIES
    ]


def _limits() -> list[Row]:
    names = [name for name in spec.__all__ if name.startswith(("MAX_", "BODY_", "VERSION"))]
    source = inspect.getsource(spec)
    said = {name: " ".join(words.split()) for name, words in _CONSTANT.findall(source)}
    return [(f"`{name}`", f"{getattr(spec, name):,}", said[name]) for name in names]


_TABLES: dict[str, tuple[Row, Sequence[int], Callable[[], list[Row]]]] = {
    "commands": (
        ("", "Command", "Directly follows", "Answers", "Not to be sent", "Not answered", "Macros",
         "Since"),
        (4, 18, 22, 12, 14, 18, 8, 4),
        _commands,
    ),
    "replies": (
        ("", "Reply", "Kind", "Needs the action", "Payload", "Since"),
        (5, 35, 15, 25, 10, 10),
        _replies,
    ),
    "actions": (("Name", "Bit", ""), (35, 15, 50), lambda: _flags(spec.Actions)),
    "options": (("Name", "Bit", ""), (35, 15, 50), lambda: _flags(spec.Options)),
    "stages": (
        ("Stage", "Number"),
        (50, 50),
        lambda: [(f"`{stage.name}`", str(stage.value)) for stage in spec.MacroStage],
    ),
    "limits": (("Name", "Value", ""), (45, 15, 40), _limits),
}  # fmt: skip


class ProtocolTable(SphinxDirective):
    """A table of the protocol."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        titles, widths, rows = _TABLES[self.arguments[0]]
        return [table(titles, widths, rows(), self.arguments[0])]


# The settings


def _default(setting: Any) -> str:
    if setting.default_factory is not MISSING:
        return f"{config_module._MOST_CONNECTIONS:,}, or fewer"
    value = setting.default
    if isinstance(value, Status):
        return f"`{value.name.lower()}`"
    if isinstance(value, str):
        return f"`{value}`"
    if setting.type == "float":
        return f"{value:,g} s"
    if setting.name == "unix_mode":
        return f"`{value:#o}`"
    if type(value) is int:
        return f"{value // 2**20:,} MiB" if value and value % 2**20 == 0 else f"{value:,}"
    return "none" if value in (None, ()) else str(value)


class ConfigTable(SphinxDirective):
    """All settings, or those whose names are given."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        said = descriptions(Config)
        wanted = " ".join(self.content).split()
        settings = [setting for setting in fields(Config) if not wanted or setting.name in wanted]
        missing = set(wanted) - {setting.name for setting in settings}
        if missing:
            raise self.error(f"no such setting: {', '.join(sorted(missing))}")
        if wanted:
            settings.sort(key=lambda setting: wanted.index(setting.name))
        rows = [(f"`{each.name}`", _default(each), said[each.name]) for each in settings]
        return [table(("Setting", "Default", ""), (28, 14, 58), rows, "setting")]


# The command line


class CommandHelp(SphinxDirective):
    """What `aiomilter COMMAND --help` says, as a manual page has it."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        group = click.Context(aiomilter, info_name="aiomilter", **aiomilter.context_settings)
        command: click.Command | None = aiomilter
        context = group
        if self.arguments:
            command = aiomilter.get_command(group, self.arguments[0])
            if command is None:
                raise self.error(f"no such command: {self.arguments[0]}")
            context = click.Context(command, info_name=command.name, parent=group)
        assert command is not None
        pieces = command.collect_usage_pieces(context)
        found = [
            _section("Synopsis", nodes.literal_block(
                text=" ".join([context.command_path, *pieces]), language="none")),
            _section("Description", *_description(command.help or "")),
        ]  # fmt: skip
        options = nodes.definition_list()
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is None or not isinstance(parameter, click.Option):
                continue  # arguments are in the synopsis
            item = nodes.definition_list_item()
            item += nodes.term("", "", nodes.literal(text=record[0]))
            definition = nodes.definition()
            definition += paragraph(record[1])
            item += definition
            options += item
        found.append(_section("Options", options))
        return list(found)


def _section(title: str, *content: nodes.Node) -> nodes.section:
    section = nodes.section(ids=[nodes.make_id(title)], names=[title.lower()])
    section += nodes.title(text=title)
    section += list(content)
    return section


def _description(text: str) -> list[nodes.Node]:
    found: list[nodes.Node] = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if part.startswith("\b"):
            lines = inspect.cleandoc(part.removeprefix("\b\n"))
            found.append(nodes.literal_block(text=lines, language="none"))
        else:
            found.append(paragraph(" ".join(part.split())))
    return found


class CommandsTable(SphinxDirective):
    """All commands, a row each, with a link to its page."""

    def run(self) -> list[nodes.Node]:
        group = click.Context(aiomilter, info_name="aiomilter", **aiomilter.context_settings)
        rows = [("`aiomilter`", "What all of them have in common.")]
        rows += [
            (f"`aiomilter {name}`", command.get_short_help_str(100))
            for name in aiomilter.list_commands(group)
            if (command := aiomilter.get_command(group, name)) is not None
        ]
        found = table(("Command", ""), (35, 65), rows, "command")
        for name in list(found.findall(nodes.literal)):
            page = name.astext().replace(" ", "-")
            link = addnodes.pending_xref(
                "", refdomain="std", reftype="doc", reftarget=f"/man/{page}", refexplicit=True
            )
            name.replace_self(link)
            link += name
        return [found]


def without_return_type_none(app: Sphinx, doctree: nodes.document) -> None:
    """Take "Return type: None" off what returns nothing: it says nothing, on every second entry."""
    del app
    for field in list(doctree.findall(nodes.field)):
        name, body = field.children
        if name.astext() == "Return type" and body.astext() == "None":
            whole = field.parent
            whole.remove(field)
            if not whole.children:
                whole.parent.remove(whole)


def strip_blocks(_app: Sphinx, document: nodes.document) -> None:
    """Take blank lines away from the ends of code, which parts of files bring along."""
    for block in document.findall(nodes.literal_block):
        text = block.astext().strip("\n")
        if block.rawsource == block.astext() != text:
            block.rawsource = text
            block.children = [nodes.Text(text)]


def setup(app: Sphinx) -> dict[str, object]:
    """Make the directives known to Sphinx."""
    app.connect("doctree-read", strip_blocks)
    app.add_directive("protocol-table", ProtocolTable)
    app.add_directive("config-table", ConfigTable)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("commands-table", CommandsTable)
    app.connect("doctree-read", without_return_type_none)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
