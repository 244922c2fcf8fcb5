"""Hostile pictures and sounds are the asker's fault, and cost next to nothing."""

import json
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.tasks.hostile_media import (
    PICTURES,
    SOUNDS,
    animation,
    noise,
    saved,
    sound,
    wav,
)

from aigrid.engines.base import CancelToken
from aigrid.engines.tasks.audio import read_sound
from aigrid.engines.tasks.base import TaskCall
from aigrid.engines.tasks.image import decode_base64, read_image
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import TaskRequest
from aigrid.protocol.limits import MIB
from aigrid.protocol.task import AudioInput, ImageInput

PICTURE = ImageInput(width=8, height=8)
SOUND = AudioInput(sample_rate=16_000)
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)))
SEEDS = [saved(kind, noise()) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP")]
TONES = {
    kind: sound(kind, np.sin(np.arange(3000) / 9).astype(np.float32))
    for kind in ("WAV", "FLAC", "OGG")
}


@contextmanager
def refusing() -> Iterator[None]:
    """What is inside may say that whoever asked is at fault, and nothing else."""
    try:
        yield
    except EngineError as error:
        if error.code is not Code.INVALID_REQUEST:
            raise


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture_is_refused_before_it_is_unfolded(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EngineError) as refused:
            read_image(PICTURES[name], PICTURE)
        assert tracemalloc.get_traced_memory()[1] < 80 * MIB
    finally:
        tracemalloc.stop()
    assert refused.value.code is Code.INVALID_REQUEST


def test_of_moving_pictures_the_first_is_looked_at() -> None:
    pixels = read_image(animation(200), PICTURE)
    assert pixels.shape == (1, 3, 8, 8)
    assert pixels[0, :, 0, 0] == pytest.approx([1, 0, 0], abs=0.02)


@given(st.sampled_from(SEEDS), CHANGES)
def test_a_changed_picture_is_read_or_refused(seed, changes) -> None:
    made = bytearray(seed)
    for place, byte in changes:
        made[int(place * (len(made) - 1))] = byte
    with refusing():
        assert read_image(bytes(made), PICTURE).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("name", SOUNDS)
def test_a_hostile_sound_is_refused_before_it_is_unfolded(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EngineError) as refused:
            read_sound(SOUNDS[name], SOUND)
        assert tracemalloc.get_traced_memory()[1] < 80 * MIB
    finally:
        tracemalloc.stop()
    assert refused.value.code is Code.INVALID_REQUEST


def test_a_sound_that_says_it_has_4_gb_has_what_there_is() -> None:
    samples = read_sound(wav(riff=2**32 - 1, data=2**32 - 1), SOUND)
    assert len(samples) == 800


def test_a_sound_that_sends_its_reader_before_its_beginning_is_refused_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with refusing():
        read_sound(b"FORM\0\0\x0e>AIFFCOMM\0\0\0\x12\0\1\0\0", SOUND)
    assert not said


@given(st.sampled_from(["WAV", "FLAC", "OGG"]), CHANGES)
def test_a_changed_sound_is_read_or_refused(kind, changes) -> None:
    made = bytearray(TONES[kind])
    for place, byte in changes:
        made[int(place * (len(made) - 1))] = byte
    with refusing():
        assert read_sound(bytes(made), SOUND).ndim == 1


@pytest.mark.parametrize("text", ["data:image/png;base64", "@@@", "data:,%41", "YQ=", "ü"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    call = TaskCall(TaskRequest("image-classification", json.dumps(text).encode()), CancelToken())
    with pytest.raises(EngineError) as refused:
        read_image(decode_base64(call, "an image"), PICTURE)
    assert refused.value.code is Code.INVALID_REQUEST
