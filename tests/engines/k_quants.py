"""The K types, written for tests: rounded block by block, without a search for better scales."""

import numpy as np

Array = np.ndarray


def pack_k(weights: Array, kind: str) -> bytes:
    """Store a matrix whose rows are multiples of 256 long."""
    units = np.asarray(weights, np.float64).reshape(-1, 256)
    return np.concatenate(_WRITERS[kind](units), axis=-1).tobytes()


def _join(codes: Array, width: int, bits: int) -> Array:
    """Put codes of a few bits into groups of `width` bytes, the first ones lowest."""
    runs = codes.astype(np.uint8).reshape(len(codes), -1, 8 // bits, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(runs << shifts, axis=2).reshape(len(codes), -1)


def _over(values: Array, divisor: Array) -> Array:
    """Rounded quotients, 0 where there is nothing to divide by."""
    return np.round(np.divide(values, divisor, out=np.zeros_like(values), where=divisor != 0))


def _halves(values: Array) -> Array:
    return values.astype("<f2").view(np.uint8)


def _from_minimum(units: Array, block: int, top: int, scale_top: int) -> tuple[Array, ...]:
    """Codes from 0 to `top`; scales and minima as integers, and the float16 of both."""
    blocks = units.reshape(len(units), -1, block)
    low = -np.minimum(blocks.min(-1), 0)
    step = (blocks.max(-1) + low) / top
    d, dmin = (
        (part.max(-1, keepdims=True) / scale_top).astype(np.float16).astype(np.float64)
        for part in (step, low)
    )
    scales, minima = (
        np.minimum(_over(part, np.broadcast_to(unit, part.shape)), scale_top)
        for part, unit in ((step, d), (low, dmin))
    )
    size = np.broadcast_to((d * scales)[..., None], blocks.shape)
    codes = np.clip(_over(blocks + (dmin * minima)[..., None], size), 0, top)
    return (
        codes.reshape(len(units), 256).astype(np.uint8),
        scales.astype(np.uint8),
        minima.astype(np.uint8),
        _halves(d),
        _halves(dmin),
    )


def _around_zero(units: Array, middle: int, scale_top: int) -> tuple[Array, Array, Array]:
    """Codes from 0 to `2 * middle - 1`, scales of 16 weights as integers, their float16."""
    blocks = units.reshape(len(units), 16, 16)
    furthest = np.abs(blocks).argmax(-1)[..., None]
    # There is one code more below the middle than above it, so that is where the furthest goes.
    step = np.take_along_axis(blocks, furthest, -1)[..., 0] / -middle
    d = (np.abs(step).max(-1, keepdims=True) / scale_top).astype(np.float16).astype(np.float64)
    scales = np.clip(_over(step, np.broadcast_to(d, step.shape)), -scale_top, scale_top)
    size = np.broadcast_to((d * scales)[..., None], blocks.shape)
    codes = np.clip(_over(blocks, size) + middle, 0, 2 * middle - 1)
    return codes.reshape(len(units), 256).astype(np.uint8), scales.astype(np.int8), _halves(d)


def _six_bits(scales: Array, minima: Array) -> Array:
    """Eight scales and eight minima in twelve bytes."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minima[:, :4] | minima[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | minima[:, 4:] << 4], axis=-1)


def _q2_k(units: Array) -> list[Array]:
    codes, scales, minima, d, dmin = _from_minimum(units, 16, 3, 15)
    return [scales | minima << 4, _join(codes, 32, 2), d, dmin]


def _q3_k(units: Array) -> list[Array]:
    codes, signed, d = _around_zero(units, 4, 31)
    scales = (signed.astype(np.int16) + 32).astype(np.uint8)
    packed = [_join(scales & 15, 8, 4), _join(scales >> 4, 4, 2)]
    return [_join(codes >> 2, 32, 1), _join(codes & 3, 32, 2), *packed, d]


def _q4_k(units: Array) -> list[Array]:
    codes, scales, minima, d, dmin = _from_minimum(units, 32, 15, 63)
    return [d, dmin, _six_bits(scales, minima), _join(codes, 32, 4)]


def _q5_k(units: Array) -> list[Array]:
    codes, scales, minima, d, dmin = _from_minimum(units, 32, 31, 63)
    high, low = _join(codes >> 4, 32, 1), _join(codes & 15, 32, 4)
    return [d, dmin, _six_bits(scales, minima), high, low]


def _q6_k(units: Array) -> list[Array]:
    codes, scales, d = _around_zero(units, 32, 127)
    low, high = _join(codes & 15, 64, 4), _join(codes >> 4, 32, 2)
    return [low, high, scales.view(np.uint8), d]


_WRITERS = {"Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}
