"""What is measured."""

from __future__ import annotations

from bench.compare.measuring import (
    Workload,
    measure_counts,
    measure_idle,
    measure_messages,
    measure_waiting,
    measure_workers,
)
from bench.compare.sendmail import measure_sendmail

__all__ = ["CONNECTION_COUNTS", "SIZES_KIB", "WORKLOADS"]

CONNECTION_COUNTS = (1, 10, 100, 1000)
SIZES_KIB = (1, 16, 256, 1024, 4096)

_MAIN = ("floor", "libmilter", "pymilter", "aiomilter-asyncio", "aiomilter-uvloop")

WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "W1-50",
        "a small message, 50 connections, TCP",
        measure_messages,
        rounds=5,
        seconds=2,
        note="12 headers, 2 recipients, a body of 4 KiB; every stage is answered, one header added",
    ),
    Workload(
        "W1-1",
        "a small message, 1 connection, TCP",
        measure_messages,
        options=("-n", 1),
        in_quick=False,
    ),
    Workload(
        "W1-1000",
        "a small message, 1,000 connections, TCP",
        measure_messages,
        options=("-n", 1000),
        seconds=2,
        in_quick=False,
    ),
    Workload(
        "W1-unix",
        "a small message, 50 connections, unix socket",
        measure_messages,
        transport="unix",
        note="without the stall that two writes cost over TCP",
    ),
    Workload(
        "W2",
        "a body of 1 MiB in pieces of 64 KiB, 10 connections, TCP",
        measure_messages,
        options=("-n", 10, "-B", 1 << 20),
        note="as Postfix and Sendmail cut it; libmilter as Debian builds it agrees to no more",
    ),
    Workload(
        "W3",
        "observers only: a small message, 50 connections, TCP",
        measure_messages,
        work="no-reply",
        rounds=5,
        seconds=2,
        note="all stages but the last are negotiated as no-reply: one answer a message",
    ),
    Workload(
        "W3-unix",
        "observers only: a small message, 50 connections, unix socket",
        measure_messages,
        work="no-reply",
        transport="unix",
        in_quick=False,
    ),
    Workload(
        "W4-1000",
        "1,000 idle connections",
        measure_idle,
        options=("-n", 1000),
        rounds=1,
        note="the kernel's memory for sockets is not in it",
        in_quick=False,
    ),
    Workload(
        "W4-10000",
        "10,000 idle connections",
        measure_idle,
        options=("-n", 10_000),
        rounds=1,
        in_quick=False,
        note="the kernel's memory for sockets is not in it",
    ),
    Workload(
        "W5",
        "a whole message collected, one header of it changed, 50 connections, TCP",
        measure_messages,
        work="change",
        options=("-n", 50, "-e"),
    ),
    Workload(
        "W6",
        "handlers that wait 20 ms, 2,000 connections, 300 messages begin a second, TCP",
        measure_waiting,
        work="wait",
        options=("-n", 2000, "-r", 300),
        messages=2000,
        rounds=1,
        in_quick=False,
        note="what is shown is the latency beyond the 20 ms",
    ),
    Workload(
        "W7",
        "`aiomilter run --workers`, 1 and 2, on uvloop, 50 connections, unix sockets",
        measure_workers,
        transport="unix",
        peers=("aiomilter-uvloop",),
        rounds=3,
    ),
    Workload(
        "W7-computing",
        "the same with a filter that computes for 2 ms a message",
        measure_workers,
        work="compute",
        transport="unix",
        peers=("aiomilter-uvloop",),
        rounds=3,
        in_quick=False,
        note="so that the load generator leaves room for two workers",
    ),
    Workload(
        "W8",
        "a connection for each message, 50 at once, TCP",
        measure_messages,
        options=("-n", 50, "-k", 1),
        seconds=1,
        in_quick=False,
        note="as most SMTP clients make an MTA do it; each brings negotiation, CONNECT and HELO",
    ),
    Workload(
        "stall",
        "1 connection over TCP, an MTA that writes macros and command together",
        measure_messages,
        options=("-n", 1),
        messages=40,
        rounds=1,
        peers=_MAIN,
    ),
    Workload(
        "stall-split",
        "1 connection over TCP, an MTA that writes macros and command separately",
        measure_messages,
        options=("-n", 1, "-s"),
        messages=40,
        rounds=1,
        peers=_MAIN,
        note="as Sendmail does it, with Nagle's algorithm on",
    ),
    Workload(
        "sendmail",
        "a real Sendmail over TCP, one SMTP connection",
        measure_sendmail,
        rounds=1,
        peers=_MAIN,
        note="from MAIL to the reply to the last dot; without a milter: the same Sendmail",
        in_quick=False,
    ),
    Workload(
        "counts",
        "system calls and instructions of a small message, 1 connection",
        measure_counts,
        options=("-n", 1),
        transport="tcp",
        rounds=1,
        note="system calls by strace, instructions in user space by valgrind's callgrind",
    ),
    *(
        Workload(
            f"connections-{count}",
            f"a small message, {count:,} connections, unix socket",
            measure_messages,
            transport="unix",
            options=("-n", count),
            rounds=1,
            seconds=1,
            peers=_MAIN,
            in_quick=False,
        )
        for count in CONNECTION_COUNTS
    ),
    *(
        Workload(
            f"size-{size}",
            f"a body of {size:,} KiB, 10 connections, unix socket",
            measure_messages,
            transport="unix",
            options=("-n", 10, "-B", size * 1024),
            rounds=1,
            seconds=1,
            peers=_MAIN,
            in_quick=False,
        )
        for size in SIZES_KIB
    ),
)
