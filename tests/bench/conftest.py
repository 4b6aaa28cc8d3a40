"""The load generator, compiled once."""

import shutil
from pathlib import Path

import pytest

from bench.compare.load import Load
from bench.compare.programs import compile_load


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    if shutil.which("gcc") is None:
        pytest.skip("the load generator is a C program: gcc is not installed")
    folder: Path = tmp_path_factory.mktemp("load")
    return Load(compile_load(folder), limit_s=20)
