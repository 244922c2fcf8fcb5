"""What benchmarks tell, for the tests of it."""

import pytest
from scripts.bench.reporting import FILE_VARIABLE
from scripts.bench.runner.figures import read


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What has been told until one asks."""
    path = tmp_path / "figures"
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    return lambda: read(path.read_text().splitlines())
