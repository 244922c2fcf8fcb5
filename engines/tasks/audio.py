"""Sound: base64 of a WAV, FLAC or Ogg file to windows of samples, and spans of voice from them."""

import contextlib
import io
from typing import Any, Final

import numpy as np
from msgspec import UNSET

from aigrid.engines.tasks.base import (
    Array,
    Setup,
    TaskCall,
    classes,
    finite,
    invalid,
    ranked,
    unsupported,
)
from aigrid.engines.tasks.image import decode_base64
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import AudioInput

FORMATS: Final = frozenset({"WAV", "FLAC", "OGG", "AIFF", "AU"})
HEADS: Final = (b"RIFF", b"RIFX", b"fLaC", b"OggS", b"FORM", b".snd", b"dns.")  # of these formats
LEAVE_BELOW: Final = 0.15  # of the threshold: speech ends only clearly below where it began
SILENCE_SECONDS: Final = 0.1  # shorter pauses do not end a span
SPEECH_SECONDS: Final = 0.25  # shorter spans are noise
LOUDEST: Final = 32_768.0  # floats are within 1, but for files that keep the scale of 16 bits


class _OnSound:
    """What the tasks on sound share."""

    def __init__(self, setup: Setup) -> None:
        if setup.mapping.audio is UNSET:
            raise unsupported(f"{setup.name} needs a mapping of sound")
        self.audio = setup.mapping.audio
        self.output = setup.output
        self.runner = setup.runner
        self.result = setup.output_name()
        names = (self.audio.rate_tensor, self.audio.state_tensor)
        self._rate, self._state = (setup.input_name(name) if name else "" for name in names)
        others = [n for n in setup.runner.inputs if n not in (self._rate, self._state)]
        self.tensor = self.audio.tensor or (others[0] if len(others) == 1 else "")
        self.tensor = setup.input_name(self.tensor)
        if self._state and self.audio.state_output not in setup.runner.outputs:
            raise unsupported(f"the model has no output {self.audio.state_output!r} for its state")

    def windows(self, samples: Array) -> Array:
        """[windows, context + window] of the samples; the last is filled up with silence."""
        size, context = self.audio.window_samples or len(samples), self.audio.context_samples
        count = -(-len(samples) // size)
        padded = np.zeros(context + count * size, np.float32)
        padded[context : context + len(samples)] = samples
        views = np.lib.stride_tricks.sliding_window_view(padded, context + size)
        return views[::size]

    def run(self, samples: Array, call: TaskCall) -> list[Array]:
        """What the model says of each window, each run handing its state to the next."""
        state = np.zeros(self.audio.state_shape, np.float32)
        found = []
        for window in self.windows(samples):
            feeds: dict[str, Array] = {self.tensor: np.ascontiguousarray(window[None])}
            if self._rate:
                feeds[self._rate] = np.asarray(self.audio.sample_rate, np.int64)
            if self._state:
                feeds[self._state] = state
            outputs = call.run(self.runner, feeds)
            state = outputs.get(self.audio.state_output, state)
            found.append(finite(outputs[self.result]))
        return found


class VoiceActivity(_OnSound):
    """Where in a sound somebody speaks: `{"start", "end"}` in seconds."""

    parameters = frozenset({"threshold"})

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        samples = read_sound(decode_base64(call, "a sound"), self.audio)
        limit = call.number("threshold", float(self.output.threshold), low=0, high=1)
        found = [float(one.ravel()[0]) for one in self.run(samples, call)]
        step = (self.audio.window_samples or len(samples)) / self.audio.sample_rate
        return [
            {"start": round(start * step, 3), "end": round(end * step, 3)}
            for start, end in voice(
                found,
                enter=limit,
                leave=limit - LEAVE_BELOW,
                pause=round(SILENCE_SECONDS / step),
                shortest=round(SPEECH_SECONDS / step),
            )
        ]


class SoundClassification(_OnSound):
    """Labels of a sound by score, over all its windows."""

    parameters = frozenset({"top_k"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._labels = setup.labels()

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        samples = read_sound(decode_base64(call, "a sound"), self.audio)
        top = call.whole("top_k", self.output.top, low=0, high=LIMITS.task_labels_max)
        scores = [
            classes(one.ravel(), self._labels, self.output.activation)
            for one in self.run(samples, call)
        ]
        return ranked(np.mean(scores, axis=0), self._labels, top)


def voice(
    scores: list[float], *, enter: float, leave: float, pause: int, shortest: int
) -> list[tuple[int, int]]:
    """Spans of windows, the end excluded, in which there is voice; pure.

    A span begins at a score of `enter` and ends before more than `pause` windows below `leave`;
    those of fewer than `shortest` windows are left out.
    """
    spans: list[tuple[int, int]] = []
    start, quiet = -1, 0
    for n, score in enumerate(scores):
        if start < 0:
            if score >= enter:
                start, quiet = n, 0
        elif score >= leave:
            quiet = 0
        else:
            quiet += 1
            if quiet > pause:
                spans.append((start, n + 1 - quiet))
                start = -1
    if start >= 0:
        spans.append((start, len(scores) - quiet))
    return [(start, end) for start, end in spans if end - start >= max(1, shortest)]


class _Bytes(io.BytesIO):
    """A file in memory that stays where it is when it is sent to before its beginning.

    libsndfile asks for that in damaged files, through a callback in which an error reaches nobody.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        with contextlib.suppress(ValueError, OverflowError):
            super().seek(offset, whence)
        return self.tell()


def read_sound(data: bytes, mapping: AudioInput) -> Array:
    """Mono float32 samples, within 1 as a rule, at the rate that the model takes.

    Raises:
        EngineError: `invalid_request` for what is no sound, or one that is too long, or has samples
            that are no numbers: what a model made of those would look like a fault of its own.
    """
    import soundfile

    if not data.startswith(HEADS):  # other decoders of libsndfile are not even tried
        raise _unknown()
    try:
        with soundfile.SoundFile(_Bytes(data)) as file:
            if file.format not in FORMATS:
                raise _unknown()
            rate, most = int(file.samplerate), LIMITS.audio_samples_max
            if not 0 < file.frames * file.channels <= most:
                raise invalid(f"a sound has between 1 and {most} samples")
            if file.frames * mapping.sample_rate > most * rate:  # few samples may be hours
                raise invalid(f"a sound has at most {most} samples at {mapping.sample_rate} Hz")
            with np.errstate(all="ignore"):
                samples: Array = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError) as error:
        raise invalid(f"the sound cannot be read: {error}") from None
    if not len(samples):
        raise invalid("the sound is empty")
    if not np.abs(samples).max() <= LOUDEST:  # NaN, too
        raise invalid("the sound has samples that are no numbers, or far beyond 1")
    return samples if rate == mapping.sample_rate else resample(samples, rate, mapping.sample_rate)


def _unknown() -> EngineError:
    return invalid(f"a sound is one of {', '.join(sorted(FORMATS))}")


def resample(samples: Array, rate: int, wanted: int) -> Array:
    """Samples at another rate, by cutting or extending their spectrum (the Fourier method)."""
    length = max(1, round(len(samples) * wanted / rate))
    spectrum = np.fft.rfft(samples)
    changed = np.zeros(length // 2 + 1, spectrum.dtype)
    kept = min(len(spectrum), len(changed))
    changed[:kept] = spectrum[:kept]
    return (np.fft.irfft(changed, length) * (length / len(samples))).astype(np.float32)
