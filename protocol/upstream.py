"""Models behind somebody's server: what they are, as far as it can be said without their files.

Nobody else can check which weights answer there, so the publisher's DID is part of what the model
is: two publishers never share a model id, and only the publisher may describe or offer it. Where
the server is, and the key to it, is nobody's business: neither is ever part of a record.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import PRINTABLE
from aigrid.protocol.tensors import TensorSpecs

UpstreamName = Annotated[str, Meta(max_length=LIMITS.upstream_name_max_chars, pattern=PRINTABLE)]


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
