"""`[placement]` of the configuration: what it may say, in a file and in the environment."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.settings.config import NodeConfig, load
from aigrid.node.settings.placement import PlacementConfig
from aigrid.protocol.errors import UsageError
from aigrid.protocol.limits import LIMITS

MODEL = "bagaaieraacva2wxkhrg3nt7cx7esrg5n2hqgutp75hv7of6ccw2mjf2gj7wq"


def of(path: Path, toml: str = "", environment: str = "") -> NodeConfig:
    (path / "config.toml").write_text(toml)
    given = {"AIGRID_PLACEMENT": environment} if environment else {}
    return load(path, {}, environment=given, hostname="here")


def test_by_default_those_whom_the_operator_trusts_are_hosted(tmp_path: Path) -> None:
    chosen = of(tmp_path).placement
    assert chosen == PlacementConfig()
    assert (chosen.host, chosen.replicas_min) == ("trusted", LIMITS.placement_seeds_min)


def test_everything_can_be_said_in_the_file(tmp_path: Path) -> None:
    toml = f"""
        [placement]
        host = ["image-classification", "{MODEL}"]
        fetch_bytes_per_day = "20GiB"
        loads_per_day = 7
        replicas_min = 0
        keep_after_seconds = 5
        replica_idle_seconds = 30
    """
    wanted = frozenset({"image-classification", f"urn:aigrid:model:{MODEL}"})
    assert of(tmp_path, toml).placement == PlacementConfig(wanted, 20 << 30, 7, 0, 5, 30)


@pytest.mark.parametrize("word", ["nothing", "own", "trusted", "members"])
def test_whose_models_is_a_word(tmp_path: Path, word: str) -> None:
    assert of(tmp_path, environment=f"host={word},loads_per_day=3").placement.host == word


def test_in_the_environment_targets_are_joined_by_a_plus(tmp_path: Path) -> None:
    found = of(tmp_path, environment="host=fill-mask+text-generation").placement.host
    assert found == frozenset({"fill-mask", "text-generation"})


@pytest.mark.parametrize(
    "toml",
    [
        "placement = 3",
        "[placement]\nhosts = 'own'",
        "[placement]\nhost = 'everybody'",
        "[placement]\nhost = 7",
        "[placement]\nhost = ['no such capability']",
        "[placement]\nfetch_bytes_per_day = 'much'",
        "[placement]\nloads_per_day = -1",
        "[placement]\nreplicas_min = 99999999",
        "[placement]\nkeep_after_seconds = 1.5",
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_source(tmp_path: Path, toml: str) -> None:
    with pytest.raises(UsageError, match=r"config\.toml: placement"):
        of(tmp_path, toml)


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["host", "loads_per_day", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(values)
def test_nothing_else_than_a_usage_error_comes_of_anything(value: Any) -> None:
    try:
        load(Path("/nowhere"), {"placement": value}, environment={}, hostname="here")
    except UsageError:
        pass
