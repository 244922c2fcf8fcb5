"""Model ids: what a model *is*, apart from what anybody says about it.

The model id is the CID of the canonical JSON of its description: files with their hashes, format,
precision, task mapping and schemas. Whoever publishes the same files for the same task gets the
same id. A manifest (kind `ModelManifest`) is a record that says more about an id, and can be
reissued.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import PRINTABLE, FileName
from aigrid.protocol.task import TaskMapping
from aigrid.protocol.upstream import Upstream

MODEL_URN = "urn:aigrid:model:"

Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Scalar = str | int | float | bool


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One file. Names are flat: no separators, no leading dot."""

    name: FileName
    sha256: Sha256Hex
    bytes: Annotated[int, Meta(ge=0, le=2**53 - 1)]


class ModelDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What is hashed into a model id.

    Attributes:
        format: "gguf", "onnx", "echo"...: which engines can run it.
        task: Hugging Face pipeline tag of the mapping.
        precision: of the weights, as the format names it ("q4_1", "float32"), or "".
        files: sorted by name.
        options: the adapter's own settings that change answers.
        mapping: how typed input and output are made; see `task`. Unset: the adapter knows, or the
            model takes tensors only.
        upstream: the model is behind somebody's server: see `upstream`. Such a model has no files
            but what its mapping needs.
    """

    format: Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9_]+\Z")]
    task: Annotated[str, Meta(min_length=1, max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]
    files: Annotated[tuple[ModelFile, ...], Meta(max_length=LIMITS.files_max)]
    precision: Annotated[str, Meta(max_length=32, pattern=PRINTABLE)] = ""
    options: dict[Annotated[str, Meta(max_length=64)], Scalar] = {}
    mapping: TaskMapping | UnsetType = UNSET
    upstream: Upstream | UnsetType = UNSET


def model_id(description: ModelDescription) -> str:
    """The CID of the canonical JSON of `description`.

    Files are put in order of name first, so that the order in which they were listed is not part
    of what the model is.

    Raises:
        VerificationError: when two names differ in nothing but case, or an option is a number that
            canonical JSON cannot express.
    """
    if len({file.name.lower() for file in description.files}) != len(description.files):
        raise VerificationError("two files of a model have the same name")
    value: dict[str, Any] = msgspec.to_builtins(description)
    value["files"] = sorted(value["files"], key=lambda file: file["name"])
    return content_id(canonical(value))
