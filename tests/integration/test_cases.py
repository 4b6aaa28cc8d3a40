"""Every case in ``cases/`` with every mail server that it is for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiomilter.testing.servers import Case, MailServers, Mta, load_cases
from tests.captures.store import recorder, store

CASES = load_cases(Path(__file__).parent / "cases")
MEASURED = ("failures", "submission")
"""The themes that have between them all that a case may need."""


@pytest.fixture(scope="session")
def servers(sendmail_root: Path) -> Iterator[MailServers]:
    """The mail servers of this worker."""
    with MailServers(sendmail_root=sendmail_root) as servers:
        yield servers


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(
            case,
            kind,
            id=f"{case.name}-{kind.value}",
            # One worker has all cases of a mail server, and so starts it once.
            marks=[
                pytest.mark.xdist_group(f"cases-{kind.value}"),
                *([] if case.path.parent.name in MEASURED else [pytest.mark.unmeasured]),
            ],
        )
        for kind in Mta
        for case in CASES
        if kind in case.servers
    ],
)
async def test_case(
    case: Case,
    kind: Mta,
    servers: MailServers,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("case", case.name)
    record_property("mail server", kind.value)
    records = request.config.getoption("--record-captures")
    record = tmp_path / "record.jsonl"
    result = await servers.run(case, kind, between=recorder(record) if records else None)
    record_property("version", result.version)
    result.assert_passed()
    if records:
        store(record, case, kind)
