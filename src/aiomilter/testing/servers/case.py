"""Cases: text files that say what passes between a client, a real mail server and a milter.

A case is read here, and held by `aiomilter.testing.servers.runner`. The form is described in the
documentation ("Test with real mail servers"); in short::

    A refused recipient leaves the other one.

    == milter
    class Choosy(Milter):
        async def on_rcpt(self, recipient, params):
            if recipient == "<nobody@dst.example>":
                return Reply(550, "5.1.1", "no such user")

    == smtp
    C: EHLO client.example
    S: 250
    C: MAIL FROM:<a@src.example>
    S: 250
    C: RCPT TO:<nobody@dst.example>
    S postfix: 550 5.1.1 no such user
    S sendmail: 550 5.1.1 <nobody@dst.example>... no such user
    C: RCPT TO:<b@dst.example>
    S: 250
    C: DATA
    S: 354
    C: {{message}}
    S: 250

    == delivered
    from <a@src.example>
    to <b@dst.example>

    Received: {{any}}
    {{content}}
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aiomilter.app.mta.kind import Mta
from aiomilter.testing.servers.template import CaseError, Template

__all__ = [
    "HANGS_UP",
    "Action",
    "Case",
    "Expected",
    "Section",
    "Settings",
    "Step",
    "load_case",
    "load_cases",
]

_SUFFIX = ".case"

_HEADING = re.compile(r"== *(?P<name>\w+)(?: +(?P<server>\w+))? *")
_STEP = re.compile(r"(?P<who>C|S|do)(?: +(?P<server>\w+))?:(?: (?P<text>.*))?")
_ENVELOPE = re.compile(r"(?P<kind>from|to|reason) (?P<text>.*)")
_SERVERS = {kind.value: kind for kind in Mta}
_SECTIONS = frozenset({"settings", "milter", "message", "smtp", "delivered", "held", "notes"})
_ONCE = frozenset({"settings", "milter", "message", "smtp"})
HANGS_UP = "(hangs up)"
"""What the server is expected to say where it closes the connection."""


class Action(enum.Enum):
    """What is done in a step of the dialogue."""

    SEND = "C"
    EXPECT = "S"
    DO = "do"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a case file.

    Attributes:
        name: The word of its heading.
        server: The mail server it is for; None for both.
        line: The number of the first line below the heading.
        lines: Its lines, without line ends.
    """

    name: str
    server: Mta | None
    line: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the dialogue.

    Attributes:
        action: Who does what.
        server: The mail server it is for; None for both.
        text: What is sent, expected, or done.
    """

    action: Action
    server: Mta | None
    text: Template


@dataclass(frozen=True, slots=True)
class Expected:
    """A message that is to be delivered.

    Attributes:
        is_held: Whether it has to be in quarantine first.
        sender: In brackets, with its ESMTP parameters.
        recipients: The same of the recipients.
        reason: Of the quarantine; None if it is left out.
        content: Header and body.
    """

    is_held: bool
    sender: Template
    recipients: tuple[Template, ...]
    reason: Template | None
    content: Template


@dataclass(frozen=True, slots=True)
class Settings:
    """How the mail server and the milter are set up for a case.

    Attributes:
        only: The one mail server that the case is for; None for both.
        because: Why it is for that one only.
        over: ``unix`` or ``inet``: how the milter is reached.
        own_process: Whether the milter is a process of its own.
        of_server: For each mail server its settings.
    """

    only: Mta | None = None
    because: str = ""
    over: str = "unix"
    own_process: bool = False
    of_server: dict[Mta, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in Mta})


@dataclass(frozen=True, slots=True)
class Case:
    """A case as it is written.

    Attributes:
        path: Its file.
        title: Its first line: what holds.
        settings: How all is set up.
        milter: The Python source of the milter; empty if there is none.
        milter_line: Where that begins in the file.
        message: The message that ``{{message}}`` sends; None for the default one.
        steps: The dialogue.
        expected: The messages that are delivered, with the server that is meant.
        notes: What the milter has to note, with the server that is meant; None: not compared.
    """

    path: Path
    title: str
    settings: Settings
    milter: str
    milter_line: int
    message: Template | None
    steps: tuple[Step, ...]
    expected: tuple[tuple[Mta | None, Expected], ...]
    notes: tuple[tuple[Mta | None, tuple[Template, ...]], ...]

    @property
    def name(self) -> str:
        """The folder and the name of the file, without its suffix: ``edits/add-header``."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def servers(self) -> tuple[Mta, ...]:
        """The mail servers that it is for."""
        return tuple(Mta) if self.settings.only is None else (self.settings.only,)

    def steps_for(self, kind: Mta) -> list[Step]:
        """Return the dialogue with one mail server."""
        return [step for step in self.steps if step.server in (None, kind)]

    def expected_of(self, kind: Mta) -> list[Expected]:
        """Return what one mail server is to deliver."""
        return [expected for server, expected in self.expected if server in (None, kind)]

    def notes_of(self, kind: Mta) -> list[Template] | None:
        """Return what the milter is to note behind one mail server; None if that is left open."""
        sections = [lines for server, lines in self.notes if server in (None, kind)]
        return [line for lines in sections for line in lines] if sections else None


def load_cases(folder: Path) -> list[Case]:
    """Read all cases (``*.case``) in a folder and the folders in it, by name.

    Raises:
        CaseError: One of them cannot be understood, or there is none.
    """
    cases = [load_case(path) for path in sorted(folder.rglob(f"*{_SUFFIX}"))]
    if not cases:
        raise CaseError(f"{folder}: there is no case (*{_SUFFIX}) in this folder")
    return cases


def load_case(path: Path) -> Case:
    """Read a case.

    Raises:
        CaseError: It cannot be understood.
        OSError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CaseError(f"{path}: it is not in UTF-8: {error}") from None
    return _Reader(path, text).read()


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.split("\n")

    def read(self) -> Case:
        head, *sections = list(self._sections())
        title = self._title(head)
        by_name = self._once(sections)
        milter, message = by_name.get("milter"), by_name.get("message")
        if "smtp" not in by_name:
            raise self._error(1, 'there is no section "== smtp"')
        return Case(
            path=self._path,
            title=title,
            settings=self._settings(by_name.get("settings")),
            milter="\n".join(milter.lines) if milter else "",
            milter_line=milter.line if milter else 0,
            message=self._content(message.lines, message.line) if message else None,
            steps=tuple(self._steps(by_name["smtp"])),
            expected=tuple(
                (section.server, self._expected(section))
                for section in sections
                if section.name in ("delivered", "held")
            ),
            notes=tuple(
                (section.server, self._notes(section))
                for section in sections
                if section.name == "notes"
            ),
        )

    def _sections(self) -> Iterator[Section]:
        """Cut the file at its headings; what is above the first one is the section ``title``."""
        name, server, begin = "title", None, 0
        for index, line in enumerate(self._lines):
            if not line.startswith("=="):
                continue
            yield self._section(name, server, begin, index)
            heading = _HEADING.fullmatch(line)
            if heading is None or heading["name"] not in _SECTIONS:
                raise self._error(
                    index + 1, f"{line!r} is no heading: write == and one of {_list(_SECTIONS)}"
                )
            name, begin = heading["name"], index + 1
            server = self._server(heading["server"], index + 1)
            if server is not None and name in _ONCE:
                raise self._error(index + 1, f"a section {name!r} is for both servers")
        yield self._section(name, server, begin, len(self._lines))

    def _section(self, name: str, server: Mta | None, begin: int, end: int) -> Section:
        lines = self._lines[begin:end]
        # One empty line sets a section off from the next heading, or is the end of the file.
        if lines and not lines[-1]:
            lines = lines[:-1]
        return Section(name, server, begin + 1, tuple(lines))

    def _once(self, sections: list[Section]) -> dict[str, Section]:
        by_name: dict[str, Section] = {}
        for section in sections:
            if section.name in _ONCE:
                if section.name in by_name:
                    raise self._error(section.line - 1, f"a second section {section.name!r}")
                by_name[section.name] = section
        return by_name

    def _title(self, section: Section) -> str:
        title = section.lines[0] if section.lines else ""
        if not title.strip() or (len(section.lines) > 1 and section.lines[1].strip()):
            raise self._error(1, "a case begins with a line that says what holds, and an empty one")
        return title.strip()

    def _settings(self, section: Section | None) -> Settings:
        if section is None:
            return Settings()
        only, because, over, own_process = None, "", "unix", False
        of_server: dict[Mta, dict[str, str]] = {kind: {} for kind in Mta}
        for number, line in enumerate(section.lines, section.line):
            key, colon, value = (part.strip() for part in line.partition(":"))
            if not line.strip():
                continue
            if key == "only" and colon:
                server, _, because = (part.strip() for part in value.partition(","))
                only = self._server(server, number)
                if not because:
                    raise self._error(number, "say why: only: postfix, because of ...")
            elif key == "milter" and value in ("inet", "unix"):
                over = value
            elif key == "milter" and value == "process":
                own_process = True
            elif key in _SERVERS and "=" in value:
                name, _, setting = (part.strip() for part in value.partition("="))
                of_server[_SERVERS[key]][name] = setting
            else:
                raise self._error(
                    number,
                    f"{line!r} is no setting: write only:, milter: inet, milter: process, "
                    "postfix: name = value or sendmail: name = value",
                )
        return Settings(only, because, over, own_process, of_server)

    def _steps(self, section: Section) -> Iterator[Step]:
        for number, line in enumerate(section.lines, section.line):
            if not line.strip() or line.startswith("#"):
                continue
            found = _STEP.fullmatch(line)
            if found is None:
                raise self._error(number, f"{line!r} is no step: it begins with C:, S: or do:")
            text = self._template(found["text"] or "", number)
            yield Step(Action(found["who"]), self._server(found["server"], number), text)

    def _expected(self, section: Section) -> Expected:
        sender: Template | None = None
        reason: Template | None = None
        recipients: list[Template] = []
        lines = enumerate(section.lines, section.line)
        for number, line in lines:
            if not line:
                break
            found = _ENVELOPE.fullmatch(line)
            if found is None:
                raise self._error(number, f"{line!r} is neither from ... nor to ... nor reason ...")
            template = self._template(found["text"], number)
            if found["kind"] == "from":
                sender = template
            elif found["kind"] == "to":
                recipients.append(template)
            elif section.name == "held":
                reason = template
            else:
                raise self._error(number, "only what is held has a reason")
        if sender is None or not recipients:
            raise self._error(section.line, 'a message has a line "from ..." and lines "to ..."')
        rest = [line for _, line in lines]
        content = self._content(rest, section.line + len(section.lines) - len(rest))
        return Expected(section.name == "held", sender, tuple(recipients), reason, content)

    def _notes(self, section: Section) -> tuple[Template, ...]:
        return tuple(
            self._template(line, number)
            for number, line in enumerate(section.lines, section.line)
            if line.strip()
        )

    def _content(self, lines: Iterable[str], number: int) -> Template:
        return self._template("".join(f"{line}\r\n" for line in lines), number)

    def _template(self, text: str, number: int) -> Template:
        return Template(text, f"{self._path}:{number}")

    def _server(self, name: str | None, number: int) -> Mta | None:
        if name is None:
            return None
        if name not in _SERVERS:
            raise self._error(number, f"{name!r} is no mail server: {_list(_SERVERS)}")
        return _SERVERS[name]

    def _error(self, number: int, text: str) -> CaseError:
        return CaseError(f"{self._path}:{number}: {text}")


def _list(words: frozenset[str] | dict[str, Mta]) -> str:
    return ", ".join(sorted(words))
