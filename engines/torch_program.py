"""A program of `torch.export`, loaded, as a `Runner`: named arrays in and out.

Inputs have the names of the arguments of the exported `forward`. An output that is alone is called
`output`; those of a tuple `output_0`, `output_1`; those of a dictionary have its keys.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from aigrid.engines.base import Cancelled, CancelToken
from aigrid.engines.onnx_tensors import Declared
from aigrid.engines.tasks.base import Array
from aigrid.engines.torch_model import failed
from aigrid.protocol.errors import Code, EngineError

_DECLARED: Final = {
    "float32": "float", "float64": "double", "float16": "float16", "bfloat16": "float",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64", "uint8": "uint8",
    "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "bool": "bool",
}  # fmt: skip
"""torch's name of a type -> the name that `Declared` takes; bfloat16 is given as float32."""


class TorchProgram:
    """One loaded program. Runs on the CPU, where it was exported for."""

    def __init__(self, path: Path) -> None:
        """Runs code that is in the file: ask `check_trusted` first.

        Raises:
            EngineError: `unsupported_model` or `out_of_memory`.
        """
        import torch

        try:
            program = torch.export.load(path)
            self._module = program.module()
        except Exception as error:  # boundary: an engine call
            raise failed(error, Code.UNSUPPORTED_MODEL) from error
        signature = program.graph_signature
        values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
        self._leaves = [_leaf(spec.arg) for spec in signature.input_specs if _user(spec)]
        self._structure = program.call_spec.in_spec
        self._types: dict[str, Any] = {
            n: values[n].dtype for n in self._leaves if isinstance(n, _Name)
        }
        self.declared = {
            str(name): Declared(str(name), _tensor_type(kind), _shape(values[name]))
            for name, kind in self._types.items()
        }
        specs = [spec for spec in signature.output_specs if _user_output(spec)]
        names = _output_names(program.call_spec.out_spec)
        kept = [n for n, spec in enumerate(specs) if type(spec.arg).__name__ == "TensorArgument"]
        if len(names) != len(specs) or not kept or len(set(names)) != len(names):
            raise EngineError("the program has outputs without names", Code.UNSUPPORTED_MODEL)
        self._outputs = {names[n]: n for n in kept}

    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]:
        """See `Runner`."""
        return {
            name: tuple(n if isinstance(n, int) else None for n in declared.shape)
            for name, declared in self.declared.items()
        }

    @property
    def outputs(self) -> Sequence[str]:
        """See `Runner`."""
        return tuple(self._outputs)

    def run(self, feeds: Mapping[str, Array], cancel: CancelToken) -> Mapping[str, Array]:
        """See `Runner.run`. A cancel is noticed between two operators."""
        import torch
        from torch.utils import _pytree as pytree

        if cancel.cancelled:
            raise Cancelled
        try:
            with torch.inference_mode(), _watching(cancel):
                tensors = {name: self._tensor(name, array) for name, array in feeds.items()}
                leaves = [tensors[n] if isinstance(n, _Name) else n for n in self._leaves]
                args, kwargs = pytree.tree_unflatten(leaves, self._structure)
                found = pytree.tree_leaves(self._module(*args, **kwargs))
                return {name: _array(found[n]) for name, n in self._outputs.items()}
        except Cancelled:
            raise
        except (AssertionError, IndexError) as error:  # a guard of the program: a shape, a row
            said = " ".join(str(error).split())[:200]
            raise EngineError(
                f"the model does not accept these tensors: {said}", Code.INVALID_REQUEST
            ) from None
        except Exception as error:  # boundary: an engine call
            raise failed(error, Code.ENGINE_FAILED) from error

    def _tensor(self, name: str, array: Array) -> Any:
        import torch

        # A copy: what came from a request cannot be written to, and a program may.
        return torch.from_numpy(np.array(array)).to(self._types[name])


class _Name(str):
    """Of an input; other leaves of the arguments are values that the program was exported with."""

    __slots__ = ()


def _user(spec: Any) -> bool:
    return str(spec.kind.name) == "USER_INPUT"


def _user_output(spec: Any) -> bool:
    return str(spec.kind.name) == "USER_OUTPUT"


def _leaf(argument: Any) -> Any:
    kind = type(argument).__name__
    if kind == "TensorArgument":
        return _Name(argument.name)
    if kind == "ConstantArgument":
        return argument.value
    raise EngineError(f"an input of the program is a {kind}", Code.UNSUPPORTED_MODEL)


def _tensor_type(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in _DECLARED:
        raise EngineError(f"an input of the program is {name}", Code.UNSUPPORTED_MODEL)
    return f"tensor({_DECLARED[name]})"


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(n if isinstance(n, int) else None for n in value.shape)


def _output_names(structure: Any) -> list[str]:
    from torch.utils import _pytree as pytree

    filled = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
    names = []
    for path, _ in pytree.tree_flatten_with_path(filled)[0]:
        parts = [str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", "")))) for p in path]
        if not parts or parts[0].isdigit():
            parts = ["output", *parts]
        names.append("_".join(parts)[:128])
    return names


def _array(tensor: Any) -> Array:
    import torch

    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.numpy()
    return array


def _watching(cancel: CancelToken) -> Any:
    """A context in which every operator asks first whether somebody still waits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if cancel.cancelled:
                raise Cancelled
            return func(*args, **(kwargs or {}))

    return Watch()
