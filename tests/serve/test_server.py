"""``vllm serve FOLDER`` answers what transformers would, to many at once, and after a client that goes away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.serve.engine import SETTINGS
from tests.serve.models import LAYOUTS, PROMPTS, SIZES, compressed, greedy, make
from tests.tiny import CHAT, tokenizer

import eckart

pytestmark = [pytest.mark.filterwarnings("ignore")]
START = 900  # seconds that a server may take to start, where other things run too
# The rows of the table in docs/engines.md, without the one that all other tests are of.
OTHERS = ("two-factor", "shared", "two-factor-8", "two-factor-4", "hybrid", "hybrid-sparse", "remapped")


class Server:
    """A server on a port of this machine."""

    def __init__(self, folder: Path, log: Path, dtype: str = "float32") -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        options = ["--dtype", dtype, "--max-model-len", "128", "--enforce-eager", "--max-num-seqs", "8"]
        # What `vllm serve` runs; the command itself wants metadata that the build for CPUs has under another name.
        module = "vllm.entrypoints.openai.api_server"
        command = [sys.executable, "-m", module, "--model", str(folder), "--served-model-name", "small"]
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port), *options],
                stdout=file,
                stderr=file,
                env={**os.environ, **SETTINGS, "VLLM_LOGGING_LEVEL": "INFO"},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(1)
        raise AssertionError("the server has not started")

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        body = json.dumps({"model": "small", "temperature": 0, "ignore_eos": True, **fields}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def close(self) -> None:
        """End the server with the processes that it started."""
        if self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make("llama")
    report = eckart.compress(model, "svd", 0.7, overrides=["structure=pivoted"])
    place = tmp_path_factory.mktemp("server") / "model"
    eckart.save(model, report, place, tokenizer=tokenizer(chat=CHAT))
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with started(folder) as found:
        yield found


@contextmanager
def started(folder: Path, dtype: str = "float32") -> Iterator[Server]:
    """Have a server of a folder that answers."""
    pytest.importorskip("vllm", reason="vLLM is not installed: see docs/serving.md")
    found = Server(folder, folder.parent / "log", dtype)
    try:
        found.wait()
        yield found
    finally:
        found.close()


def complete(server: Server, prompt: list[int], tokens: int = 64) -> list[int]:
    """Return the tokens behind a prompt."""
    answer = server.post("/v1/completions", prompt=prompt, max_tokens=tokens, return_token_ids=True)
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


def test_completions_one_by_one_and_all_at_once(server: Server, folder: Path) -> None:
    expected = greedy(folder)
    assert [complete(server, prompt) for prompt in PROMPTS] == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda prompt: complete(server, prompt), PROMPTS * 4)) == expected * 4


def test_a_chat(server: Server) -> None:
    messages = [{"role": "user", "content": "hello"}]
    first = server.post("/v1/chat/completions", messages=messages, max_tokens=8)
    assert first["choices"][0]["message"]["role"] == "assistant"
    assert first["usage"]["completion_tokens"] == 8
    again = server.post("/v1/chat/completions", messages=messages, max_tokens=8)
    assert again["choices"][0]["message"] == first["choices"][0]["message"]


def test_a_client_that_goes_away(server: Server, folder: Path) -> None:
    body = json.dumps({"model": "small", "prompt": PROMPTS[0], "max_tokens": 100, "ignore_eos": True, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"{head}\r\n\r\n{body}".encode())
        assert client.recv(64).startswith(b"HTTP/1.1 200")
    assert complete(server, PROMPTS[1]) == greedy(folder, prompts=[PROMPTS[1]])[0]


def test_a_request_that_is_wrong(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        server.post("/v1/completions", prompt=PROMPTS[0], max_tokens=1000)
    assert server.process.poll() is None


@pytest.mark.parametrize("layout", OTHERS)
def test_the_other_layouts(layout: str, tmp_path: Path) -> None:
    """It loads in a process that it starts, not as it does offline in one."""
    folder = compressed(tmp_path / "model", *LAYOUTS[layout], keep=SIZES.get(layout, 0.75), tokenizer=tokenizer())
    with started(folder) as server:
        assert [complete(server, prompt) for prompt in PROMPTS] == greedy(folder)


@pytest.mark.parametrize("recipe", ["int4", "gptq"])
def test_4_bits_alone(recipe: str, tmp_path: Path) -> None:
    """The engine has a product of them for 16 bits only, which may round to another token after a while."""
    folder = compressed(tmp_path / "model", recipe=recipe, keep=0.55, tokenizer=tokenizer())
    with started(folder, "float16") as server:
        assert [complete(server, prompt, 8) for prompt in PROMPTS] == greedy(folder, 8)
