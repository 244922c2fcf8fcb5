"""Triton's HTTP client, as its docs say: an address without a scheme."""

from typing import Any, ClassVar

import numpy as np
import tritonclient.http as triton
from tests.clients.client import LINEAR, NOTHING, ROWS, VECTORS, Client
from tritonclient.utils import InferenceServerException


class Triton(Client):
    name = "tritonclient[http]"
    absent: ClassVar = {
        "stream": "streams are of its gRPC client",
        "cancel": "only its gRPC client can",
    }
    refused = InferenceServerException

    def connected(self, address: str = "") -> triton.InferenceServerClient:
        return triton.InferenceServerClient((address or self.address).removeprefix("http://"))

    def listed(self) -> set[str]:
        """The repository is that of one node: here of the one that holds the models."""
        index = self.connected(self.holder).get_model_repository_index()
        return {str(one["name"]) for one in index}

    def plain(self) -> None:
        x = np.asarray([[1, 4, 9]], "f4")
        for binary in (True, False):
            given = triton.InferInput("x", x.shape, "FP32").set_data_from_numpy(x, binary)
            wanted = triton.InferRequestedOutput("z", binary_data=binary)
            found = self.connected().infer(LINEAR, [given], outputs=[wanted])
            assert np.array_equal(found.as_numpy("z"), np.sqrt(x))
            assert found.get_response()["parameters"]["aigrid_node"] == self.holder_id

    def embeddings(self, texts: list[str]) -> Any:
        """It sends tensors, so the tokens: what the model was made from here is a list of words."""
        words = ["", *ROWS]
        rows = [[words.index(word) for word in text.split()] for text in texts]
        ids = np.asarray([row + [0] * (2 - len(row)) for row in rows], "i8")
        given = triton.InferInput("input_ids", ids.shape, "INT64").set_data_from_numpy(ids)
        return self.connected().infer(VECTORS, [given]).as_numpy("logits")

    def error(self) -> None:
        self.connected().get_model_metadata(NOTHING)
