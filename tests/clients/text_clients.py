"""Clients of OpenAI's and of Ollama's interface.

What is imported where it is used takes seconds to import, or is of the extra `clients`.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any, ClassVar

import ollama
import openai
import pytest
from tests.clients.client import ECHO, NOTHING, SLOW, TEXT, VECTORS, Client

SAID: Any = [{"role": "user", "content": TEXT}]


class OpenAi(Client):
    name = "openai"
    refused = openai.NotFoundError

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="none")

    def listed(self) -> set[str]:
        return {model.id for model in self.client().models.list()}

    def plain(self) -> str:
        answer = self.client().chat.completions.create(model=ECHO, messages=SAID)
        assert answer.model_extra
        assert answer.model_extra["aigrid"]["segments"][0]["node"] == self.holder_id
        return str(answer.choices[0].message.content)

    def stream(self) -> list[str]:
        stream = self.client().chat.completions.create(model=ECHO, messages=SAID, stream=True)
        return [chunk.choices[0].delta.content or "" for chunk in stream]

    def embeddings(self, texts: list[str]) -> Any:
        found = self.client().embeddings.create(model=VECTORS, input=texts)
        return [one.embedding for one in found.data]

    def error(self) -> None:
        self.client().chat.completions.create(model=NOTHING, messages=SAID)

    def cancel(self) -> str:
        with self.client().chat.completions.create(
            model=SLOW, messages=SAID, stream=True
        ) as stream:
            return next(
                chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content
            )


class Ollama(Client):
    name = "ollama"
    refused = ollama.ResponseError

    def client(self) -> ollama.Client:
        return ollama.Client(host=self.address)

    def listed(self) -> set[str]:
        return {str(model.model).removesuffix(":latest") for model in self.client().list().models}

    def plain(self) -> str:
        return str(self.client().chat(model=ECHO, messages=SAID).message.content)

    def stream(self) -> list[str]:
        stream = self.client().chat(model=ECHO, messages=SAID, stream=True)
        return [part.message.content or "" for part in stream]

    def embeddings(self, texts: list[str]) -> Any:
        return self.client().embed(model=VECTORS, input=texts).embeddings

    def error(self) -> None:
        self.client().chat(model=NOTHING, messages=SAID)

    def cancel(self) -> str:
        stream: Any = self.client().chat(model=SLOW, messages=SAID, stream=True)
        first = next(stream)
        stream.close()
        return str(first.message.content)


class LangChain(Client):
    name = "langchain-openai"
    absent: ClassVar = {"list": "it lists no models"}
    refused = openai.NotFoundError

    def client(self, model: str) -> Any:
        langchain = pytest.importorskip("langchain_openai", reason="needs the extra `clients`")
        return langchain.ChatOpenAI(base_url=f"{self.address}/v1", api_key="none", model=model)

    def plain(self) -> str:
        return str(self.client(ECHO).invoke(TEXT).content)

    def stream(self) -> list[str]:
        return [chunk.content for chunk in self.client(ECHO).stream(TEXT)]

    def embeddings(self, texts: list[str]) -> Any:
        langchain = pytest.importorskip("langchain_openai", reason="needs the extra `clients`")
        return langchain.OpenAIEmbeddings(
            base_url=f"{self.address}/v1",
            api_key="none",
            model=VECTORS,
            check_embedding_ctx_length=False,  # else it fetches OpenAI's tokenizer
        ).embed_documents(texts)

    def error(self) -> None:
        self.client(NOTHING).invoke(TEXT)

    def cancel(self) -> str:
        stream: Any = self.client(SLOW).stream(TEXT)
        first = next(chunk.content for chunk in stream if chunk.content)
        stream.close()
        return str(first)


class LiteLlm(Client):
    name = "litellm"
    provider, base = "openai", "/v1"

    @property
    def refused(self) -> type[Exception]:  # type: ignore[override]
        return self.sdk().NotFoundError

    def sdk(self) -> Any:
        return pytest.importorskip("litellm", reason="needs the extra `clients`")

    def ask(self, model: str, **more: Any) -> Any:
        return self.sdk().completion(
            model=f"{self.provider}/{model}",
            messages=SAID,
            api_base=self.address + self.base,
            api_key="none",
            **more,
        )

    def listed(self) -> set[str]:
        found = self.sdk().get_valid_models(
            check_provider_endpoint=True,
            custom_llm_provider=self.provider,
            api_base=self.address,
            api_key="none",
        )
        return {name.removeprefix(f"{self.provider}/") for name in found}

    def plain(self) -> str:
        return str(self.ask(ECHO).choices[0].message.content)

    def stream(self) -> list[str]:
        return [chunk.choices[0].delta.content or "" for chunk in self.ask(ECHO, stream=True)]

    def embeddings(self, texts: list[str]) -> Any:
        found = self.sdk().embedding(
            model=f"{self.provider}/{VECTORS}",
            input=texts,
            api_base=self.address + self.base,
            api_key="none",
        )
        return [one["embedding"] for one in found.data]

    def error(self) -> None:
        self.ask(NOTHING)

    def cancel(self) -> str:
        stream = self.ask(SLOW, stream=True)
        first = next(c for chunk in stream if (c := chunk.choices[0].delta.content))
        stream.close()
        return str(first)


class LiteLlmOfOllama(LiteLlm):
    """Its providers for Ollama, which send JSON as if it were a form: `ollama_chat` streams here."""

    name = "litellm, ollama"
    provider, base = "ollama", ""

    def ask(self, model: str, **more: Any) -> Any:
        self.provider = "ollama_chat" if more.get("stream") else "ollama"
        return super().ask(model, **more)

    def listed(self) -> set[str]:
        return {name.removesuffix(":latest") for name in super().listed()}

    def plain(self) -> str:
        """It puts messages into one prompt, and asks for that to be continued."""
        return super().plain().removeprefix("### User:\n").strip()


def _interrupted(asking: "subprocess.Popen[bytes]") -> bytes:
    """What it says to Ctrl-C, pressed again where the program has lost the first one."""
    for _ in range(6):
        asking.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return asking.communicate(timeout=10)[1]
    asking.kill()
    raise AssertionError("it does not end at Ctrl-C")


class Llm(Client):
    name = "llm"
    absent: ClassVar = {
        "list": "it lists what its own file names",
        "embeddings": "its OpenAI embeddings have fixed names",
    }
    refused = openai.NotFoundError

    def prompt(self, model: str, *, stream: bool) -> Any:
        llm = pytest.importorskip("llm", reason="needs the extra `clients`")
        self.configure()
        return llm.get_model(f"grid-{model}").prompt(TEXT, stream=stream, key="none")

    def configure(self) -> None:
        entries = [
            {"model_id": f"grid-{name}", "model_name": name, "api_base": f"{self.address}/v1"}
            for name in (ECHO, SLOW, NOTHING)
        ]  # JSON is YAML
        (self.folder / "extra-openai-models.yaml").write_text(json.dumps(entries))

    def plain(self) -> str:
        return str(self.prompt(ECHO, stream=False).text())

    def stream(self) -> list[str]:
        return list(self.prompt(ECHO, stream=True))

    def error(self) -> None:
        self.prompt(NOTHING, stream=False).text()

    def cancel(self) -> str:
        """Ctrl-C at the command, for the library has no way to leave an answer."""
        pytest.importorskip("llm", reason="needs the extra `clients`")
        self.configure()
        command = [sys.executable, "-m", "llm", "-m", f"grid-{SLOW}", TEXT, "--key", "none"]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # as on a terminal
        ) as asking:
            assert asking.stdout is not None
            first = asking.stdout.read(5)
            said = _interrupted(asking)
        assert first, said.decode(errors="replace")
        return first.decode()
