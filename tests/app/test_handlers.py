"""What a milter class can do: only overridden handlers count."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from aiomilter import (
    Actions,
    ConfigError,
    EomActions,
    MacroStage,
    Message,
    MessageNeeds,
    Milter,
    Options,
    Server,
    SocketInfo,
    Status,
    macros,
    no_reply,
)
from aiomilter.app.handlers import HandlerKind, handler_table
from aiomilter.session.status import Status as SessionStatus
from aiomilter.spec import State

ALL_NO = 0x37F
"""NO_CONNECT to NO_EOH, NO_UNKNOWN and NO_DATA."""

# handler -> its state, its NO_* bit
STAGES = {
    "on_connect": (State.CONNECT, Options.NO_CONNECT),
    "on_helo": (State.HELO, Options.NO_HELO),
    "on_mail": (State.MAIL, Options.NO_MAIL),
    "on_rcpt": (State.RCPT, Options.NO_RCPT),
    "on_data": (State.DATA, Options.NO_DATA),
    "on_header": (State.HEADER, Options.NO_HEADER),
    "on_eoh": (State.EOH, Options.NO_EOH),
    "on_body": (State.BODY, Options.NO_BODY),
    "on_unknown": (State.UNKNOWN, Options.NO_UNKNOWN),
    "on_eom": (State.EOM, Options(0)),
}


async def handler(self: Milter, *arguments: object) -> None: ...


def blocking_handler(self: Milter, *arguments: object) -> None: ...


def test_a_class_without_handlers_wants_nothing() -> None:
    class Idle(Milter):
        pass

    table = handler_table(Idle)
    assert (table.handled, table.options) == (0, ALL_NO)
    assert table.by_name == {}
    assert table.by_event == {}
    assert not table.begins_messages


@pytest.mark.parametrize("name", STAGES)
def test_an_overridden_handler_alone_is_wanted(name: str) -> None:
    milter = type("One", (Milter,), {name: handler})
    table = handler_table(milter)
    state, no_option = STAGES[name]
    assert table.handled == 1 << state
    assert table.options == ALL_NO & ~no_option
    assert list(table.by_name) == [name]
    assert len(table.by_event) == 1


@pytest.mark.parametrize("name", ["on_abort", "on_close", "on_negotiate"])
def test_a_hook_makes_the_mta_send_nothing(name: str) -> None:
    table = handler_table(type("Hooked", (Milter,), {name: handler}))
    assert (table.handled, table.options) == (0, ALL_NO)
    assert list(table.by_name) == [name]
    assert table.by_event == {}


def test_an_inherited_handler_counts() -> None:
    class Base(Milter):
        async def on_helo(self, hostname: str) -> None: ...

    class Derived(Base):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

    class Mixin:
        async def on_data(self) -> None: ...

    class Mixed(Mixin, Derived):
        pass

    assert set(handler_table(Base).by_name) == {"on_helo"}
    assert set(handler_table(Derived).by_name) == {"on_helo", "on_mail"}
    assert set(handler_table(Mixed).by_name) == {"on_helo", "on_mail", "on_data"}
    assert handler_table(Mixed).class_name.endswith("Mixed")


def test_a_handler_may_be_taken_back_in_a_subclass() -> None:
    class Base(Milter):
        async def on_helo(self, hostname: str) -> None: ...

    class Without(Base):
        on_helo = Milter.on_helo  # type: ignore[assignment]  # narrower than the base's

    assert handler_table(Without).by_name == {}


def test_async_and_plain_handlers_are_told_apart() -> None:
    table = handler_table(
        type("Both", (Milter,), {"on_helo": handler, "on_mail": blocking_handler})
    )
    assert table.by_name["on_helo"].is_async
    assert not table.by_name["on_mail"].is_async


def test_each_handler_knows_what_the_mta_does_meanwhile() -> None:
    names = [*STAGES, "on_abort", "on_close", "on_negotiate"]
    table = handler_table(type("All", (Milter,), dict.fromkeys(names, handler)))
    kinds = {name: found.kind for name, found in table.by_name.items()}
    assert kinds.pop("on_eom") is HandlerKind.EOM
    assert kinds.pop("on_abort") is kinds.pop("on_close") is HandlerKind.HOOK
    assert set(kinds.values()) == {HandlerKind.EVENT}
    assert table.options == 0


def test_the_table_is_made_once_a_class_and_keeps_no_class_alive() -> None:
    milter = type("Passing", (Milter,), {"on_helo": blocking_handler})
    assert handler_table(milter) is handler_table(milter)
    gone = weakref.ref(milter)
    del milter
    gc.collect()
    assert gone() is None


def test_begin_message_is_noticed() -> None:
    class Beginning(Milter):
        def begin_message(self) -> None: ...

    assert handler_table(Beginning).begins_messages


def test_begin_message_must_not_be_a_coroutine() -> None:
    async def begin_message(self: Milter) -> None: ...

    milter = type("Wrong", (Milter,), {"begin_message": begin_message})
    with pytest.raises(ConfigError, match=r"Wrong\.begin_message must be a plain method"):
        Server(milter, "inet:0")


@pytest.mark.parametrize("actions", [1, "ADD_HEADER", Options.NO_BODY, [Actions.ADD_HEADER]])
def test_actions_must_be_actions(actions: Any) -> None:
    milter = type("Wrong", (Milter,), {"actions": actions})
    with pytest.raises(ConfigError, match=r"Wrong\.actions is"):
        Server(milter, "inet:0")


def test_handlers_cannot_ask_for_more_macros_than_a_packet_takes() -> None:
    async def on_mail(self: Milter, sender: str, params: list[str]) -> None: ...

    on_mail = macros(*("{%s}" % ("x" * 998) for _ in range(66)))(on_mail)
    milter = type("Wrong", (Milter,), {"on_mail": on_mail})
    with pytest.raises(
        ConfigError, match=r"Wrong: the names of all macros together take \d+ bytes"
    ):
        Server(milter, "inet:0")


def test_actions_are_kept() -> None:
    class Needing(Milter):
        actions = Actions.ADD_HEADER | Actions.QUARANTINE

    assert handler_table(Needing).actions == 0x21
    assert handler_table(Milter).actions is None


async def _never() -> None: ...


async def test_the_handlers_of_the_base_class_do_nothing() -> None:
    milter = Milter()
    results = [
        milter.on_connect("h", SocketInfo("unknown")),
        milter.on_helo("h"),
        milter.on_mail("<>", []),
        milter.on_rcpt("<>", []),
        milter.on_data(),
        milter.on_header("n", "v"),
        milter.on_eoh(),
        milter.on_body(b"x"),
        milter.on_eom(EomActions(0, _never)),
        milter.on_unknown("x"),
        milter.on_abort(),
        milter.on_close(),
    ]
    milter.begin_message()
    assert results == [None] * len(results)


def test_status_is_the_same_everywhere() -> None:
    assert Status is SessionStatus


class Whole(Milter):
    """Takes whole messages."""

    async def on_message(self, message: Message) -> None: ...


@pytest.mark.parametrize("name", ["on_header", "on_eoh", "on_body", "on_eom"])
def test_on_message_leaves_no_room_for_handlers_of_its_parts(name: str) -> None:
    milter = type("Both", (Whole,), {name: handler})
    with pytest.raises(ConfigError, match=rf"Both has both on_message and {name}: on_message is"):
        handler_table(milter)
    with pytest.raises(ConfigError, match="Both has both"):
        Server(milter, "inet:0")


@pytest.mark.parametrize("needs", ["HEADERS", None, 1, MessageNeeds])
def test_what_on_message_needs_is_one_of_two(needs: object) -> None:
    milter = type("Wrong", (Whole,), {"message_needs": needs})
    with pytest.raises(ConfigError, match=r"Wrong\.message_needs is .*MessageNeeds\.BODY or"):
        handler_table(milter)


def test_on_message_cannot_be_without_a_reply() -> None:
    milter = type("Wrong", (Milter,), {"on_message": no_reply(Whole.on_message)})
    with pytest.raises(ConfigError, match=r"Wrong\.on_message cannot be no_reply"):
        handler_table(milter)


def test_on_message_has_one_parameter() -> None:
    async def on_message(self: Milter) -> None: ...

    with pytest.raises(ConfigError, match=r"write on_message\(self, message\)"):
        handler_table(type("Wrong", (Milter,), {"on_message": on_message}))


def test_what_is_gathered_is_asked_for_without_replies_where_nobody_handles_it() -> None:
    class Choosy(Whole):
        async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    table = handler_table(Choosy)
    silent = (
        Options.NO_REPLY_CONNECT
        | Options.NO_REPLY_HELO
        | Options.NO_REPLY_MAIL
        | Options.NO_REPLY_HEADER
        | Options.NO_REPLY_BODY
    )
    unwanted = Options.NO_DATA | Options.NO_EOH | Options.NO_UNKNOWN
    assert table.options == silent | unwanted | Options.LEADING_SPACE | Options.SKIP
    assert table.optional >= silent | Options.LEADING_SPACE | Options.SKIP
    assert list(table.by_name) == ["on_rcpt", "on_message"]
    assert table.gathers


def test_the_macros_of_on_message_are_those_of_the_end() -> None:
    milter = type("Asking", (Milter,), {"on_message": macros("{x}")(Whole.on_message)})
    assert handler_table(milter).macros == {MacroStage.EOM: ["{x}"]}
