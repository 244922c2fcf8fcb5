"""What workers say that a model or a query may have taken over: frames, and reports in them."""

from scripts.fuzzing.target import Target
from scripts.fuzzing.trees import MSGPACK, Tree

from aigrid.engines import ipc
from aigrid.metagraph import dataset_ipc
from aigrid.protocol.inference import Finish, TextChunk


def _engine(data: bytes) -> None:
    """The report as it is, and as the bytes of a stream. Raises what the last refused."""
    refused: ValueError | None = None
    took = False
    try:
        for body in ipc.FrameCutter().feed(data):
            ipc.decode_report(body)
            took = True
    except ValueError as error:
        refused = error
    try:
        said = ipc.decode_report(data)
        took = True
    except ValueError as error:
        refused = error
    else:
        if isinstance(said, ipc.Failed):
            ipc.engine_error(said)
    if refused is not None and not took:
        raise refused


def _engine_seeds() -> list[bytes]:
    said: list[ipc.Report] = [
        ipc.Failed(1, "busy", "Try later."),
        ipc.Chunk(1, TextChunk(" world", (42,))),
        ipc.Ended(1, Finish("stop", 9, 1), 0.5, 1.5, 2.5),
        ipc.Progress("half of it"),
        ipc.Hello(7),
    ]
    framed = [ipc.encode(one) for one in said]
    return [*(one[4:] for one in framed), b"".join(framed)]


def _query_seeds() -> list[bytes]:
    return [dataset_ipc.encode(dataset_ipc.Failed("query_malformed", "a reason"))[4:]]


TARGETS = (
    Target("engine-reports", lambda: Tree(_engine_seeds(), MSGPACK), _engine, (ValueError,)),
    Target(
        "query-reports",
        lambda: Tree(_query_seeds(), MSGPACK),
        dataset_ipc.decode_report,
        (ValueError,),
    ),
)
