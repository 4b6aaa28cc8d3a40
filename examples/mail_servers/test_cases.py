"""Hold the cases of this folder against a Postfix and a Sendmail of the test's own."""

# <test>
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiomilter.testing.servers import Case, MailServers, load_cases

CASES = load_cases(Path(__file__).parent)


@pytest.fixture(scope="session")
def servers() -> Iterator[MailServers]:
    with MailServers() as servers:
        yield servers


@pytest.mark.asyncio
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_case(case: Case, servers: MailServers) -> None:
    for kind in case.servers:
        result = await servers.run(case, kind)
        result.assert_passed()
