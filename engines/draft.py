"""A draft: everything about a model that its files say, and where each thing was read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import TaskMapping
from aigrid.protocol.tensors import TensorSpec, TensorSpecs


@dataclass(frozen=True, slots=True)
class Draft:
    """A model as it would be published; empty for what its files do not say.

    Attributes:
        format: "gguf", "onnx", "safetensors", or what a plug-in takes.
        files: name as a file of the model -> where it is now.
        precision: of most of the weights.
        task: Hugging Face pipeline tag.
        license_id: SPDX id, or `LicenseRef-` and what the model calls it.
        languages: BCP 47.
        mapping: how typed input and output are made.
        tokenizer: what turns text into tokens, for people.
        context_tokens: the longest context that the model was made for.
        parameters: weights in all.
        inputs, outputs: tensors, where the file declares them.
        left_out: file -> why it is no part of the model.
        origins: attribute -> where it was read.
    """

    format: str
    files: Mapping[str, Path]
    precision: str = ""
    task: str = ""
    license_id: str = ""
    languages: tuple[str, ...] = ()
    mapping: TaskMapping | UnsetType = UNSET
    tokenizer: str = ""
    context_tokens: int = 0
    parameters: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def said(self, origin: str, **values: object) -> "Draft":
        """With `values` that were read at `origin`; what is empty there or known already stays."""
        news = {
            name: value
            for name, value in values.items()
            if value not in ("", (), 0, UNSET) and getattr(self, name) in ("", (), 0, UNSET)
        }
        origins = {**self.origins, **dict.fromkeys(news, origin)}
        return replace(self, **news, origins=origins)  # type: ignore[arg-type]

    def instead(self, origin: str, **values: object) -> "Draft":
        """With what somebody says in the place of what the files say; empty values say nothing."""
        news = {name: value for name, value in values.items() if value not in ("", (), UNSET)}
        origins = {**self.origins, **dict.fromkeys(news, origin)}
        return replace(self, **news, origins=origins)  # type: ignore[arg-type]

    def meant(self, task: str) -> "Draft":
        """For the task that somebody says: of another, what the files imply does not hold."""
        if task in ("", self.task):
            return self
        kept = {name: at for name, at in self.origins.items() if name not in ("task", "mapping")}
        bare = replace(self, task="", mapping=UNSET, origins=kept)
        return bare.said("--capability", task=task)


Word = Annotated[str, Meta(max_length=512)]
Words = Annotated[dict[Word, Word], Meta(max_length=LIMITS.model_neighbours_max)]
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class WireDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A draft as the process that made it says it: bounded, for it read what nobody vouches for."""

    format: Word
    files: Annotated[
        dict[Word, Annotated[str, Meta(max_length=4096)]], Meta(max_length=LIMITS.files_max)
    ]
    precision: Word = ""
    task: Word = ""
    license_id: Word = ""
    languages: Annotated[tuple[Word, ...], Meta(max_length=LIMITS.languages_max)] = ()
    mapping: TaskMapping | UnsetType = UNSET
    tokenizer: Word = ""
    context_tokens: Number = 0
    parameters: Number = 0
    inputs: TensorSpecs = ()
    outputs: TensorSpecs = ()
    left_out: Words = {}
    origins: Words = {}


def to_wire(draft: Draft) -> WireDraft:
    """For another process."""
    parts = {name: getattr(draft, name) for name in WireDraft.__struct_fields__}
    parts["files"] = {name: str(path) for name, path in draft.files.items()}
    return WireDraft(**parts)


def from_wire(said: WireDraft) -> Draft:
    """From another process."""
    parts = {name: getattr(said, name) for name in WireDraft.__struct_fields__}
    parts["files"] = {name: Path(path) for name, path in said.files.items()}
    return Draft(**parts)
