"""Which hardware is found: cards of a fabricated driver and a fabricated /sys, and what is here."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.engines.base import Device
from aigrid.engines.devices import accelerators, amd, apple, choose, hardware, host, nvidia
from aigrid.engines.devices.cards import Card, as_devices, visible

ROOT = Path(__file__).parents[2]
HOST = Device("cpu", "some cores", 1000, 400)
ONE, TWO = Card("GPU-aa11", "one", 100, 90), Card("GPU-aa22", "two", 200, 80)
PARTS = (Card("MIG-b1", "part", 50, 40), Card("MIG-b2", "part", 50, 50))
DIVIDED = Card("GPU-b0", "three", 120, 110, parts=PARTS)
CARDS = (ONE, TWO, DIVIDED)


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, (ONE, TWO, PARTS[0])),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1", (TWO,)),
        ("1,0", (TWO, ONE)),
        (" 1 , 0", (TWO, ONE)),
        ("0,7,1", (ONE,)),
        ("0,x,1", (ONE,)),
        ("0,0", ()),
        ("GPU-aa11", (ONE,)),
        ("GPU-aa2", (TWO,)),
        ("GPU-aa", ()),
        ("GPU-aa22,0", (TWO, ONE)),
        ("MIG-b2", (PARTS[1],)),
        ("2", (PARTS[0],)),
        ("GPU-b0", (PARTS[0],)),
        ("9" * 4000, ()),
        ("\u0661", ()),
    ],
)
def test_the_variables_of_the_runtimes_are_read_as_they_read_them(
    chosen: str | None, seen: tuple[Card, ...]
) -> None:
    assert visible(CARDS, chosen) == seen


@given(st.text(alphabet="0123GPUMIG-aab12, x", max_size=30))
def test_a_variable_may_say_anything_and_makes_no_card_appear(chosen: str) -> None:
    seen = visible(CARDS, chosen)
    assert len({id(card) for card in seen}) == len(seen)
    assert set(seen) <= {ONE, TWO, *PARTS}


def test_devices_are_numbered_among_those_that_are_seen() -> None:
    first, second = as_devices("cuda", visible(CARDS, "1,0"), HOST)
    assert (first.place, first.name, first.memory_free_bytes) == ("cuda:0", "two", 80)
    assert (second.place, second.name) == ("cuda:1", "one")
    assert HOST.place == "cpu"


def test_what_shares_the_machines_memory_has_no_more_than_the_machine() -> None:
    unknown, large, small = as_devices(
        "cuda",
        [
            Card("", "", unified=True),
            Card("", "\x1b[1mname", 5000, 4000, unified=True),
            Card("", "x", 500, 300, unified=True),
        ],
        HOST,
    )
    assert (unknown.name, unknown.memory_total_bytes, unknown.memory_free_bytes) == (
        "cuda",
        1000,
        400,
    )
    assert (large.name, large.memory_total_bytes, large.memory_free_bytes) == ("[1mname", 1000, 400)
    assert (small.memory_total_bytes, small.memory_free_bytes) == (500, 300)
    assert unknown.unified


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """NVIDIA's own binding over a library of ours; it tells what `accelerators` finds."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the fabricated driver is built with a C compiler, on Linux")
    folder = tmp_path_factory.mktemp("driver")
    source, library = Path(__file__).with_name("nvml.c"), folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    script = (
        "import json, os, msgspec; from aigrid.engines.devices import accelerators, cpu; "
        "print(json.dumps(msgspec.to_builtins(accelerators(cpu(), os.environ))))"
    )

    def found(cards: str, **environment: str) -> list[dict[str, Any]]:
        told = {"NVML_CARDS": cards} if cards else {}
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(folder), **told, **environment},
        )
        devices = json.loads(done.stdout)
        return [device for device in devices if device["kind"] == "cuda"]

    return found


def test_nvidias_cards_are_found_with_their_memory(driver: Any) -> None:
    first, second = driver("80/60;40/40")
    assert (first["name"], first["index"], first["unified"]) == ("Card 1", 0, False)
    assert (first["memory_total_bytes"], first["memory_free_bytes"]) == (80, 60)
    assert (second["name"], second["index"], second["memory_free_bytes"]) == ("Card 2", 1, 40)
    (only,) = driver("80/60;40/40", CUDA_VISIBLE_DEVICES="GPU-0002")
    assert (only["name"], only["index"]) == ("Card 2", 0)
    assert driver("80/60", CUDA_VISIBLE_DEVICES="") == []


def test_a_card_without_memory_of_its_own_has_the_machines(driver: Any) -> None:
    (device,) = driver("unified")
    assert device["unified"]
    assert 0 < device["memory_free_bytes"] <= device["memory_total_bytes"]


def test_a_lost_card_hides_no_other_and_of_a_divided_one_a_part_is_seen(driver: Any) -> None:
    lost_one = driver("lost;40/30")
    assert [device["name"] for device in lost_one] == ["Card 2"]
    (part,) = driver("divided")
    assert (part["name"], part["memory_total_bytes"]) == ("Card 101", 10)
    (other,) = driver("divided", CUDA_VISIBLE_DEVICES="MIG-0102")
    assert other["name"] == "Card 102"


def test_a_driver_that_does_not_start_has_no_cards(driver: Any) -> None:
    assert driver("") == []


def card_in(system: Path, number: int, address: str, files: dict[str, str], minor: int) -> None:
    device = system / "devices" / address
    (device / "drm" / f"renderD{minor}").mkdir(parents=True)
    for name, text in files.items():
        (device / name).write_text(f"{text}\n")
    place = system / "class" / "drm" / f"card{number}"
    place.mkdir(parents=True)
    (place / "device").symlink_to(device)
    connector = system / "class" / "drm" / f"card{number}-DP-1"
    connector.mkdir()
    (connector / "device").symlink_to(place)


def node_in(system: Path, number: int, properties: str) -> None:
    place = system / "class/kfd/kfd/topology/nodes" / str(number)
    place.mkdir(parents=True)
    (place / "properties").write_text(properties)


def amd_files(total: str, used: str, **more: str) -> dict[str, str]:
    memory = {"mem_info_vram_total": total, "mem_info_vram_used": used}
    return {"vendor": "0x1002", "device": "0x744c", **memory, **more}


def test_amds_cards_are_numbered_as_rocm_numbers_them(tmp_path: Path) -> None:
    card_in(tmp_path, 0, "0000:03:00.0", amd_files("1000", "100", unique_id="ab"), 128)
    card_in(tmp_path, 1, "0000:83:00.0", amd_files("2000", "0", product_name="Large"), 129)
    card_in(tmp_path, 2, "0000:01:00.0", {"vendor": "0x10de"}, 130)
    assert [card.name for card in amd.cards(tmp_path)] == ["AMD 0x744c", "Large"]
    node_in(tmp_path, 0, "cpu_cores_count 8\nsimd_count 0\n")
    node_in(tmp_path, 1, "cpu_cores_count 0\nsimd_count 64\ndrm_render_minor 129\n")
    node_in(tmp_path, 2, "cpu_cores_count 0\nsimd_count 64\ndrm_render_minor 128\n")
    large, small = amd.cards(tmp_path)
    assert (large.name, large.memory_free_bytes, large.uuid) == ("Large", 2000, "")
    assert (small.memory_total_bytes, small.memory_free_bytes, small.uuid) == (1000, 900, "GPU-ab")
    chosen = {"ROCR_VISIBLE_DEVICES": "1,0", "HIP_VISIBLE_DEVICES": "0"}
    (device,) = (d for d in accelerators(HOST, chosen, system=tmp_path) if d.kind == "rocm")
    assert (device.place, device.name, device.unified) == ("rocm:0", "AMD 0x744c", False)
    hidden = accelerators(HOST, {"CUDA_VISIBLE_DEVICES": ""}, system=tmp_path)
    assert not [d for d in hidden if d.kind == "rocm"]


def test_an_accelerator_within_a_processor_shares_the_machines_memory(tmp_path: Path) -> None:
    gtt = {"mem_info_gtt_total": "700", "mem_info_gtt_used": "50"}
    card_in(tmp_path, 0, "0000:03:00.0", amd_files("100", "50", **gtt), 128)
    node_in(tmp_path, 0, "cpu_cores_count 8\nsimd_count 40\ndrm_render_minor 128\n")
    (device,) = (d for d in accelerators(HOST, {}, system=tmp_path) if d.kind == "rocm")
    assert (device.unified, device.memory_total_bytes, device.memory_free_bytes) == (True, 800, 400)


@pytest.mark.parametrize("said", ["", "many", "-5", "9" * 40, "\u0661"])
def test_memory_that_is_no_number_is_unknown(tmp_path: Path, said: str) -> None:
    card_in(tmp_path, 0, "0000:03:00.0", amd_files(said, said), 128)
    (card,) = amd.cards(tmp_path)
    assert (card.memory_total_bytes, card.memory_free_bytes) == (0, 0)


def test_where_there_is_nothing_nothing_is_found_and_nothing_raises(tmp_path: Path) -> None:
    assert amd.cards(tmp_path / "absent") == ()
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "drm").write_text("a file")
    assert amd.cards(tmp_path) == ()
    host, *found = hardware()
    assert host.kind == "cpu"
    assert len(found) == len(accelerators(host, os.environ))
    if not Path("/proc/driver/nvidia").exists():
        assert nvidia.cards() == ()


def test_apples_own_processor_is_an_accelerator_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert apple.devices(HOST) == ()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    (device,) = apple.devices(HOST)
    assert (device.place, device.unified, device.memory_free_bytes) == ("metal:0", True, 400)


def _cuda(index: int, total: int, free: int) -> Device:
    return Device("cuda", "x", total, free, index)


@pytest.mark.parametrize(
    ("usable", "room", "place"),
    [
        ([], {}, None),
        ([HOST], {}, None),
        ([_cuda(0, 100, 50), _cuda(1, 100, 60)], {}, "cuda:1"),
        ([_cuda(0, 100, 60), _cuda(1, 100, 60)], {}, "cuda:0"),
        # It may be full of models that can be unloaded: what counts is what it could ever hold.
        ([_cuda(0, 100, 0)], {}, "cuda:0"),
        ([_cuda(0, 30, 30)], {}, None),
        ([_cuda(0, 100, 90), _cuda(1, 100, 60)], {"cuda:0": 39}, "cuda:1"),
        ([_cuda(0, 100, 90)], {"cuda:0": 40}, "cuda:0"),
        ([_cuda(0, 100, 90)], {"cuda:0": 0}, None),
        ([_cuda(0, 0, 0)], {}, "cuda:0"),
        ([_cuda(0, 0, 0)], {"cuda:0": 39}, None),
    ],
)
def test_a_model_goes_where_most_is_free_among_what_can_ever_hold_it(
    usable: list[Device], room: dict[str, int], place: str | None
) -> None:
    chosen = choose(usable, lambda _: 40, room)
    assert (chosen.place if chosen else None) == place


@pytest.mark.parametrize(
    ("machine", "flags", "saturate"),
    [
        ("x86_64", "fma avx avx2", True),
        ("x86_64", "avx2 avx512f avx512bw", True),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", "", True),
        ("aarch64", "", False),
    ],
)
def test_processors_that_sum_bytes_in_16_bits_are_known(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, saturate: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(host, "_read", lambda _path: f"model name\t: one\nflags\t\t: {flags}\n")
    assert host.sums_of_bytes_saturate() is saturate
