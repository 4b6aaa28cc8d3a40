"""What several milters ask for together, and how chains are made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from aiomilter import (
    Actions,
    ConfigError,
    EomActions,
    Message,
    MessageNeeds,
    Milter,
    Negotiation,
    Options,
    Server,
    SocketInfo,
    Status,
    chain,
    macros,
)
from aiomilter.app.compose.relay import Relay
from aiomilter.app.compose.tables import merge_macros
from aiomilter.mta import Offer
from aiomilter.spec import MacroStage
from aiomilter.testing import MilterTester
from tests.app.compose.scripted import Adds, C, R, Silent, scripted

# What is asked of the MTA


class NeedsQuarantine(Milter):
    actions = Actions.QUARANTINE
    message_needs = MessageNeeds.HEADERS

    @macros("{mine}", "i")
    async def on_mail(self, sender: str, params: list[str]) -> None:
        pass

    async def on_message(self, message: Message) -> None:
        pass


class NeedsHeaders(Milter):
    actions = Actions.ADD_HEADER

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-A", "1")


def test_actions_are_those_of_all() -> None:
    both = chain(NeedsQuarantine, NeedsHeaders)
    with MilterTester(both) as tester:
        tester.send("A: b\n\nbody\n").assert_accepted()
        relay = tester.milters[0]
        assert isinstance(relay, Relay)
        assert relay.table.actions == Actions.QUARANTINE | Actions.ADD_HEADER
        # Nobody sees or replaces the body, so it is not sent.
        assert relay.table.options & Options.NO_BODY
    offer = Offer(actions=Actions.ADD_HEADER)
    with (
        pytest.raises(Exception, match=r"closed|refused"),
        MilterTester(chain(NeedsQuarantine, Adds), offer=offer) as tester,
    ):
        tester.send()


def test_macros_of_one_do_not_take_those_of_another_away() -> None:
    merged = merge_macros([{MacroStage.MAIL: ["{mine}", "i"]}, {}])
    assert merged[MacroStage.MAIL][:2] == ["{mine}", "i"]
    assert {"{auth_authen}", "{mail_addr}", "{auth_ssf}"} <= set(merged[MacroStage.MAIL])
    assert merge_macros([{MacroStage.MAIL: ["a"]}, {MacroStage.MAIL: ["b", "a"]}]) == {
        MacroStage.MAIL: ["a", "b"]
    }


class Negotiates(Milter):
    result: Any = None

    async def on_negotiate(self, negotiation: Negotiation) -> Any:
        negotiation.request_macros(MacroStage.CONNECT, "{mine}")
        negotiation.options |= Options.NO_MAIL | Options.LEADING_SPACE
        return self.result

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        assert self.macros["{mine}"] == "x"

    async def on_mail(self, sender: str, params: list[str]) -> None:
        raise AssertionError("it has asked not to be told")

    async def on_header(self, name: str, value: str) -> None:
        assert value.startswith(" ")


def test_what_one_negotiates_is_for_that_one() -> None:
    calls: list[str] = []
    milters = [Negotiates, scripted("b", calls, mail=C, header=C)]
    with MilterTester(chain(*milters), macros={"{mine}": "x"}) as tester:
        tester.send("A: b\n\n").assert_accepted()
    assert "b.mail" in calls


def test_one_that_refuses_the_mta_refuses_for_all(caplog: pytest.LogCaptureFixture) -> None:
    class Refuses(Negotiates):
        result = R

    with (
        pytest.raises(Exception, match=r"closed|refused"),
        MilterTester(chain(Silent, Refuses)) as tester,
    ):
        tester.connect()
    assert "on_negotiate of Refuses refuses" in caplog.text.replace(
        f"{Refuses.__qualname__}", "Refuses"
    )


def test_a_fault_of_one_at_the_negotiation_costs_a_verdict() -> None:
    class Bad(Negotiates):
        result = "yes"

    class Worse(Negotiates):
        async def on_negotiate(self, negotiation: Negotiation) -> Any:
            negotiation.request_macros(MacroStage.CONNECT, "with blank")
            return Status.ALL_OPTS

    for milter in (Bad, Worse):
        with MilterTester(chain(Silent, milter), raise_faults=False) as tester:
            tester.connect().assert_tempfailed()
            assert len(tester.faults) == 1


# Making chains


def test_chains_within_chains_are_one() -> None:
    whole = chain(Silent, chain(Adds, Adds))
    assert str(whole) == "chain(Silent, Adds, Adds)"
    assert repr(whole) == "<chain(Silent, Adds, Adds)>"
    assert str(chain(Adds)) == "Adds"


class NeedsArgument(Milter):
    def __init__(self, argument: int) -> None:
        self.argument = argument


class Misspelt(Milter):
    async def on_recpt(self) -> None:
        pass


async def coroutine() -> Milter:
    return Silent()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (Misspelt, "is on_rcpt meant"),
        (partial(Misspelt), "is on_rcpt meant"),
        (NeedsArgument, "cannot be called without arguments"),
        (int, "int is no subclass of Milter"),
        (Silent(), "is an object of the class Silent"),
        ("Silent", "it is not callable"),
        (coroutine, "is an async function"),
    ],
)
def test_what_cannot_work_is_told_at_once(what: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chain(Silent, what)


def test_an_empty_chain_is_none() -> None:
    with pytest.raises(ConfigError, match="at least one milter"):
        chain()


def test_what_a_factory_makes_is_checked_in_each_session() -> None:
    def a_chain() -> Milter:
        return chain(Silent)()

    same = Silent()

    def misspelt() -> Milter:
        return Misspelt()

    makers: dict[str, Callable[[], Any]] = {
        "which is no Milter": lambda: 1,
        "the same object twice": lambda: same,
        "made a chain": a_chain,
        "names that begin with on_": misspelt,
    }
    for words, make in makers.items():
        with MilterTester(chain(make, make), raise_faults=False) as tester:
            tester.mail().assert_tempfailed()
            assert any(words in str(fault) for fault in tester.faults), tester.faults


def test_together_too_many_macros_are_refused() -> None:
    def asking(names: list[str]) -> type[Milter]:
        class Asks(Milter):
            @macros(*names)
            async def on_mail(self, sender: str, params: list[str]) -> None:
                pass

        return Asks

    half = [f"{{{'x' * 240}{number}}}" for number in range(140)]
    other = [f"{{{'y' * 240}{number}}}" for number in range(140)]
    chain(asking(half))
    with pytest.raises(ConfigError, match=r"chain.*names of all macros"):
        chain(asking(half), asking(other))


async def test_a_server_takes_a_chain(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Server(chain(Silent, Adds), "inet:0@127.0.0.1") as server:
        assert server.sockets


class Negotiating(Milter):
    """Asks for refused recipients only when it is asked."""

    async def on_negotiate(self, negotiation: Negotiation) -> None:
        negotiation.options |= Options.REJECTED_RECIPIENTS

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        pass


def test_refused_recipients_are_for_whoever_has_negotiated_them() -> None:
    calls: list[str] = []
    with MilterTester(
        chain(Negotiating, scripted("b", calls, rcpt=R)), macros={"{rcpt_mailer}": "error"}
    ) as tester:
        tester.rcpt().assert_continued()
    assert "b.rcpt" not in calls


@pytest.mark.parametrize("version", [2, 3, 4, 6])
def test_an_mta_without_later_options_is_served(version: int) -> None:
    offer = Offer(
        version=version,
        actions=Actions.ADD_HEADER | Actions.QUARANTINE,
        options=Options(0x7F),
    )
    calls: list[str] = []
    milters = [Adds, scripted("b", calls, rcpt=C, header=C, body=C, eom=C), Adds]
    with MilterTester(chain(*milters), offer=offer) as tester:
        for _ in range(2):
            assert tester.send("A: b\n\nbody\n").message.get_all("X-Whole") == ["1", "2"]


def test_what_is_negotiated_beyond_a_packet_costs_a_verdict() -> None:
    def asking(letter: str) -> type[Milter]:
        class Asks(Milter):
            async def on_negotiate(self, negotiation: Negotiation) -> None:
                names = [f"{{{letter * 240}{number}}}" for number in range(140)]
                negotiation.request_macros(MacroStage.MAIL, *names)

            async def on_mail(self, sender: str, params: list[str]) -> None:
                pass

        return Asks

    with MilterTester(chain(asking("x"), asking("y")), raise_faults=False) as tester:
        tester.send().assert_tempfailed()
        (fault,) = tester.faults
        assert "the names of all macros together" in str(fault)
        tester.send().assert_accepted()
