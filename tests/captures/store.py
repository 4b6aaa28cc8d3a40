"""Where the captures are: what passed between a mail server and the milter of a case.

A capture is a record as ``aiomilter trace`` makes it (docs/reference/records.md), of one case with
one mail server: ``SERVER/THEME/NAME.jsonl``, or the same with ``.gz`` where it is large.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiomilter import Config
from aiomilter.aio.address import parse_address
from aiomilter.aio.listeners import open_listeners
from aiomilter.cli.proxy import Proxy
from aiomilter.cli.record import Entry, Header, RecordReader, RecordWriter
from aiomilter.testing.servers import Case, Mta

__all__ = ["HERE", "captures", "path_of", "read_capture", "recorder", "store"]

HERE = Path(__file__).parent
LARGE_BYTES = 64 * 1024
"""Above this a capture is compressed: bodies are large and say little."""
STARTED = "2026-01-01T00:00:00+00:00"
"""In the place of the time of the recording, which nobody asks for."""


def path_of(case: Case, kind: Mta) -> Path:
    """Return where the capture of a case is, without ``.gz``."""
    return HERE / kind.value / f"{case.name}.jsonl"


def captures() -> dict[Path, Path]:
    """Return all files, by their paths without ``.gz``."""
    files = [path for kind in Mta for path in (HERE / kind.value).rglob("*.jsonl*")]
    return {path.with_name(path.name.removesuffix(".gz")): path for path in files}


def recorder(record: Path) -> Callable[[str, str], AbstractAsyncContextManager[None]]:
    """Return what stands between a mail server and a milter, and records what passes."""

    @asynccontextmanager
    async def between(listen: str, to: str) -> AsyncGenerator[None]:
        writer = RecordWriter(record, Header(STARTED, "the mail server", "the milter"))

        def report(entry: Entry) -> None:
            # The path is another one each time.
            writer.write(replace(entry, detail=entry.detail.replace(to, "the milter")))

        proxy = Proxy(parse_address(to), report)
        config = Config(unix_mode=0o666)
        listeners = open_listeners((listen,), config)
        servers = [await proxy.serve(listener, config.backlog) for listener in listeners]
        try:
            yield
        finally:
            for server in servers:
                server.close()
            await proxy.stop()
            for listener in listeners:
                listener.close()
            writer.close()

    return between


def store(record: Path, case: Case, kind: Mta) -> None:
    """Keep a record as the capture of a case."""
    path = path_of(case, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    compressed = path.with_name(f"{path.name}.gz")
    path.unlink(missing_ok=True)
    compressed.unlink(missing_ok=True)
    data = record.read_bytes()
    if len(data) > LARGE_BYTES:
        compressed.write_bytes(gzip.compress(data, mtime=0))
    else:
        path.write_bytes(data)


def read_capture(path: Path) -> list[Entry]:
    """Return all entries of a capture.

    Raises:
        CommandError: It is no record.
    """
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    complaints: list[str] = []
    entries = list(RecordReader(io.BytesIO(data), path.name, complaints.append).entries())
    assert complaints == []
    return entries
