"""Models behind somebody's server: what they are, as far as it can be said without their files.

Nobody else can check which weights answer there, so the publisher's DID is part of what the model
is: two publishers never share a model id, and only the publisher may describe or offer it. Where
the server is, and the key to it, is nobody's business: neither is ever part of a record.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import PRINTABLE

UpstreamName = Annotated[str, Meta(max_length=LIMITS.upstream_name_max_chars, pattern=PRINTABLE)]
TensorType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""Names of the Open Inference Protocol, version 2; BYTES stands for text."""

Dimension = Annotated[int, Meta(ge=-1, le=2**31 - 1)]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A tensor as a server declares it; a dimension of -1 may have any size."""

    name: Annotated[
        str, Meta(min_length=1, max_length=LIMITS.tensor_name_max_chars, pattern=PRINTABLE)
    ]
    datatype: TensorType
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=LIMITS.tensor_rank_max)]


TensorSpecs = Annotated[tuple[TensorSpec, ...], Meta(max_length=LIMITS.tensors_max)]


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A model behind a server.

    Attributes:
        publisher: DID of the node that passes requests on.
        model: what the server calls it.
        version: as the server reports it, or "" where it reports none.
        inputs, outputs: what it declares, in its order; empty for models of text.
    """

    publisher: Annotated[str, Meta(min_length=1, max_length=128)]
    model: Annotated[UpstreamName, Meta(min_length=1)]
    version: UpstreamName = ""
    inputs: TensorSpecs = ()
    outputs: TensorSpecs = ()
