"""Programs of `torch.export` (.pt2) on torch: tensors in and out, or a typed task with a mapping.

Loading one runs pickled code that is in the file, so the engine takes it only from a publisher
whom this node trusts, and on the CPU alone: a worker that has no accelerator is confined as far as
the machine can.
"""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from aigrid.engines.base import (
    CancelToken,
    Estimate,
    ModelSource,
    Probe,
    check_options,
    check_trusted,
    model_file,
    wrong_task,
)
from aigrid.engines.counting import CountedEngine
from aigrid.engines.devices import devices
from aigrid.engines.onnx_tensors import answer_of, feeds_of, wanted_of
from aigrid.engines.pt2 import FORMAT, read_archive
from aigrid.engines.tasks import TASKS, Tasks
from aigrid.engines.torch_program import TorchProgram
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TaskRequest,
    TensorRequest,
)
from aigrid.protocol.limits import MIB

RUNTIME_BYTES: Final = 512 * MIB
CODE_FORMATS: Final = (FORMAT,)
REFUSES: Final = (
    "programs of publishers that are not trusted: loading one can run code that is hidden in it",
    "compiled packages (AOTInductor): they are native code",
    "programs exported for an accelerator: they run on the CPU alone",
)


class TorchExportEngine(CountedEngine):
    """One program, one request at a time."""

    name = "torch_export"

    def __init__(self) -> None:
        super().__init__()
        self._program: TorchProgram | None = None
        self._tasks: Tasks | None = None

    def probe(self) -> Probe:
        found, problem = "", ""
        try:
            found = version("torch")
            import torch  # noqa: F401 - the question is whether it can be loaded here
        except PackageNotFoundError:
            problem = "torch is not installed: pip install 'aigrid-node[torch]'"
        except (ImportError, OSError) as error:
            problem = f"torch cannot be used: {error}"[:300]
        return Probe(
            self.name,
            found,
            (FORMAT,),
            ("tensor", *TASKS),
            devices(),
            problem,
            code_formats=CODE_FORMATS,
            refuses=REFUSES,
        )

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source)
        check_trusted(source, CODE_FORMATS)
        archive = read_archive(model_file(source, FORMAT))
        # The file, its weights, and those once more: some programs change the order of theirs.
        return Estimate(RUNTIME_BYTES + 3 * archive.size_bytes, precision=archive.precision)

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        estimate = self.estimate(source)
        import torch

        torch.set_num_threads(max(1, threads))
        self._program = TorchProgram(model_file(source, FORMAT))
        self._tasks = None if source.mapping is None else Tasks(source, self._program)
        return estimate

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        program = self._program
        if program is None:
            raise EngineError("no model is loaded")
        if isinstance(request, TensorRequest):
            kinds = dict.fromkeys(program.outputs, "tensor")
            wanted = wanted_of(request, kinds, program.outputs)
            found = program.run(feeds_of(request, program.declared), cancel)
            yield answer_of(wanted, [found[name] for name in wanted])
            yield Finish("stop")
        elif not isinstance(request, TaskRequest):
            raise wrong_task(self.name, request)
        elif self._tasks is None:
            raise EngineError(
                "this model takes tensors only: it has no task mapping", Code.INVALID_REQUEST
            )
        else:
            yield from self._tasks.run(request, cancel)
