"""A publisher goes offline: real nodes keep its model, and bring it to where it is wanted."""

from pathlib import Path

import pytest
from scripts.faults.offline_publisher import run


@pytest.mark.process
def test_a_model_outlives_its_publisher_and_comes_to_where_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, tiny=True) == 0
    said = capsys.readouterr().out
    assert "keeper has fetched the files" in said
    assert "a third without the keeper" in said
