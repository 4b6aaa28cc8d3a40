"""Proofs behind a real Postfix and a real Sendmail, with as many messages as there is time for.

    python -m bench.mail_servers faults --messages 10000
    python -m bench.mail_servers endless
    python -m bench.mail_servers odd --messages 20000

faults: every tenth message meets a handler that raises. Each message must be delivered with its
one stamp or be refused for now, over the same connection to the milter (P1).

endless: a handler never ends, at every stage at the same time, with the default budgets here and
the default limits of time there. Takes four minutes. Each client must hear a temporary failure, and
neither server may tell of a timeout (P14).

odd: random mail as no good client sends it. There must be no protocol error, and nothing may pass
the milter unseen (P43).

Needs both servers, as `make test-deps` installs them, and root. The exit status says whether all
was as promised.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter

from aiomilter.testing.servers import Mta
from tests.integration.load import endless, failing, odd
from tests.integration.load.servers import UNIX, shown

__all__ = ["main"]

_SENDMAIL_DEFAULTS = {"T": ""}
_POSTFIX_DEFAULTS = {
    "milter_connect_timeout": "30s",
    "milter_command_timeout": "30s",
    "milter_content_timeout": "300s",
}
_PATIENCE_S = 320.0


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


async def prove_faults(options: argparse.Namespace) -> bool:
    """P1; returns whether it is kept."""
    is_kept = True
    for kind in Mta:
        began = time.monotonic()
        outcome = await failing.send_all(kind, options.messages, options.clients)
        print(f"{kind.value}: {_counts(outcome.counts)}, {time.monotonic() - began:.0f} s")
        print(f"    faults: {_counts(outcome.faults)}; complaints: {shown(outcome.complaints)}")
        is_kept &= outcome.is_kept
    return is_kept


async def prove_endless(options: argparse.Namespace) -> bool:
    """P14; returns whether it is kept."""
    del options
    waited = await asyncio.gather(
        endless.wait_everywhere(Mta.POSTFIX, UNIX, _POSTFIX_DEFAULTS, _PATIENCE_S),
        endless.wait_everywhere(Mta.SENDMAIL, UNIX, _SENDMAIL_DEFAULTS, _PATIENCE_S),
    )
    is_kept = True
    for kind, one in zip((Mta.POSTFIX, Mta.SENDMAIL), waited, strict=True):
        print(f"{kind.value}: complaints: {shown(one.complaints)}")
        for stage in endless.STAGES:
            print(f"    {stage}: {one.refusals[stage]!r} after {one.seconds[stage]:.1f} s")
            is_kept &= one.refusals[stage].startswith("45")
        is_kept &= not one.complaints
    return is_kept


async def prove_odd(options: argparse.Namespace) -> bool:
    """P43; returns whether it is kept."""
    is_kept = True
    for kind in Mta:
        began = time.monotonic()
        outcome = await odd.send_odd(kind, options.messages, options.seed, options.clients)
        print(f"{kind.value}: {_counts(outcome.counts)}, {time.monotonic() - began:.0f} s")
        print(f"    records: {shown(outcome.records)}; complaints: {shown(outcome.complaints)}")
        is_kept &= outcome.is_kept
    return is_kept


_PROOFS = {"faults": prove_faults, "endless": prove_endless, "odd": prove_odd}


def main() -> int:
    """Run one of the proofs."""
    parser = argparse.ArgumentParser(prog="bench.mail_servers", description=__doc__)
    parser.add_argument("proof", choices=_PROOFS)
    parser.add_argument("--messages", type=int, default=10_000, help="for each server")
    parser.add_argument("--clients", type=int, default=8, help="SMTP sessions at a time")
    parser.add_argument("--seed", type=int, default=1, help="of odd mail")
    options = parser.parse_args()
    # Faults are what is asked for; what matters of the log is counted.
    logging.getLogger("aiomilter").addHandler(logging.NullHandler())
    logging.getLogger("aiomilter").propagate = False
    return 0 if asyncio.run(_PROOFS[options.proof](options)) else 1


if __name__ == "__main__":
    sys.exit(main())
