"""Settings: their defaults, and what cannot work."""

from __future__ import annotations

import dataclasses
import math
import resource
from typing import Any

import pytest

from aiomilter import Config, ConfigError, Status

TIMES = [
    "negotiation_timeout",
    "packet_timeout",
    "idle_timeout",
    "write_timeout",
    "handler_timeout",
    "eom_timeout",
    "progress_interval",
]


def test_the_defaults_are_those_that_are_promised() -> None:
    config = Config()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 4096 if soft == resource.RLIM_INFINITY else min(4096, soft - 64)
    assert config == Config(
        max_connections=limit,
        max_connections_per_peer=0,
        overload="tempfail",
        allowed_networks=(),
        memory_budget=268_435_456,
        max_packet_bytes=65_535,
        negotiation_timeout=10,
        packet_timeout=30,
        idle_timeout=7210,
        write_timeout=30,
        handler_timeout=8,
        eom_timeout=240,
        progress_interval=5,
        on_error="tempfail",
        stop_grace=30,
        unix_mode=0o660,
        unix_group=None,
        unix_owner=None,
        max_threads=32,
        backlog=1024,
    )


@pytest.mark.parametrize(
    ("soft", "connections"),
    [
        (64, 1),
        (65, 1),
        (1024, 960),
        (4160, 4096),
        (1_000_000, 4096),
        (resource.RLIM_INFINITY, 4096),
    ],
)
def test_the_default_limit_of_connections_leaves_descriptors_free(
    soft: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, soft))
    assert Config().max_connections == connections


def test_it_is_frozen_and_takes_keywords_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().backlog = 1  # type: ignore[misc]  # the error is the point
    with pytest.raises(TypeError):
        Config(1)  # type: ignore[call-arg]  # the same


def test_every_setting_is_documented() -> None:
    for setting in dataclasses.fields(Config):
        assert f"{setting.name}: " in str(Config.__doc__)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "8", None])
def test_a_time_is_a_number_of_seconds_above_0(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a number of seconds above 0"):
        Config(**{name: value})


def test_a_grace_may_be_nothing() -> None:
    assert Config(stop_grace=0).stop_grace == 0
    with pytest.raises(ConfigError, match="stop_grace"):
        Config(stop_grace=-1)


@pytest.mark.parametrize(
    "name", ["max_connections", "max_packet_bytes", "max_threads", "backlog", "unix_mode"]
)
@pytest.mark.parametrize("value", [-1, 1.5, "1", None, True])
def test_a_number_is_a_non_negative_integer(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a non-negative integer"):
        Config(**{name: value})


@pytest.mark.parametrize("name", ["max_connections", "max_threads", "backlog", "memory_budget"])
def test_a_limit_is_at_least_1(name: str) -> None:
    assert getattr(Config(**{name: 1}), name) == 1  # type: ignore[arg-type]  # an int
    with pytest.raises(ConfigError, match=f"{name} is at least 1"):
        Config(**{name: 0})  # type: ignore[arg-type]  # an int


def test_a_packet_has_from_1_byte_to_1_mib() -> None:
    assert Config(max_packet_bytes=1_048_575).max_packet_bytes == 1_048_575
    for value in (0, 1_048_576):
        with pytest.raises(ConfigError, match="max_packet_bytes is from 1 to 1048575"):
            Config(max_packet_bytes=value)


def test_a_mode_is_permissions_only() -> None:
    assert Config(unix_mode=0o777).unix_mode == 0o777
    with pytest.raises(ConfigError, match="unix_mode is at most 0o777, not 0o1660"):
        Config(unix_mode=0o1660)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("tempfail", Status.TEMPFAIL),
        ("TempFail", Status.TEMPFAIL),
        ("reject", Status.REJECT),
        ("accept", Status.ACCEPT),
        ("continue", Status.CONTINUE),
        (Status.REJECT, Status.REJECT),
    ],
)
def test_the_verdict_after_a_fault_may_be_text(value: Any, status: Status) -> None:
    config = Config(on_error=value)
    assert config.on_error is config.error_status is status


@pytest.mark.parametrize("value", ["", "discard", Status.DISCARD, Status.NOREPLY, None, 4, []])
def test_any_other_verdict_after_a_fault_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="on_error is one of tempfail, reject, accept, continue"):
        Config(on_error=value)


def test_networks_are_networks() -> None:
    config = Config(allowed_networks=("192.0.2.1", "2001:DB8::/32"))
    assert config.allowed_networks == ("192.0.2.1/32", "2001:db8::/32")
    for wrong in ("192.0.2.0/24", ("192.0.2.1/24",), ("localhost",), 7):
        with pytest.raises(ConfigError, match="allowed_networks"):
            Config(allowed_networks=wrong)  # type: ignore[arg-type]


def test_overload_is_one_of_two() -> None:
    assert Config(overload="close").overload == "close"
    with pytest.raises(ConfigError, match="overload is one of tempfail, close; not 'drop'"):
        Config(overload="drop")
