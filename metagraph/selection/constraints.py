"""Why a node is not asked. Pure."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a candidate is not asked: it cannot serve, or is not what somebody wants."""

    EXPIRED = "expired"
    DEAD = "dead"
    FULL = "full"
    COOLING = "cooling"
    BUSY = "busy"
    LANGUAGE = "language"
    FORMAT = "format"
    PRECISION = "precision"
    LICENSE = "license"
    REGION = "region"
    WARM = "warm"
    LATENCY = "latency"
    ISSUER = "issuer"
    SIGNER = "signer"
    PARAMETER = "parameter"
    PREFERENCE = "preference"
    FALLBACK = "fallback"


# These stay as they are however long one waits, and whoever is summoned.
UNWANTED = frozenset({Reason.PARAMETER, Reason.PREFERENCE, Reason.PRECISION})
