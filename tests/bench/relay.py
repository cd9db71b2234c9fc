"""`make bench NAME=relay`: a base model through Foundry against vLLM's own server.

Same model, engine arguments, prompts and client; the two sides take turns, one busy at a time, and
medians over the rounds are reported. Both engines stay up, so neither is measured cold.
"""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from foundry.config import ServingSettings, child_environment
from foundry.engines.training.gguf_import import bundled_gguf, convert_gguf
from foundry.execution.jobs.domain import BUNDLED
from foundry.infra.embedded import stack
from foundry.sdk import Foundry
from tests.bench.stack import fresh_home
from workflows.demo import BASE, api_key

ROUNDS = 5
MAX_TOKENS = 32
ALONE = 8
TOGETHER = 8
GIB = 2**30


@dataclass(frozen=True)
class Side:
    name: str
    url: str
    key: str
    model: str


@dataclass(frozen=True)
class Sample:
    """One request; seconds."""

    ttft_s: float
    total_s: float
    tokens: int


@dataclass(frozen=True)
class Round:
    ttft_p50_s: float
    tokens_per_s: float
    busy_ttft_p50_s: float


def prompt(seed: str) -> list[dict[str, str]]:
    """About 60 tokens, different from the first one on: no prefix is ever in the engine's cache."""
    text = f"{seed}. Explain in simple words how a public library lends books to its readers, "
    return [
        {"role": "user", "content": text + "what happens when one is late, and why it is free."}
    ]


async def ask(client: httpx.AsyncClient, side: Side, seed: str) -> Sample:
    body = {
        "model": side.model,
        "messages": prompt(seed),
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    first: float | None = None
    tail = b""
    async with client.stream("POST", f"{side.url}/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{side.name}: {(await answer.aread()).decode()}")
        async for data in answer.aiter_raw():
            tail = (tail + data)[-4096:]
            if first is None and _has_content(tail):
                first = time.perf_counter()
    usage = next(
        json.loads(line[6:])["usage"] for line in tail.split(b"\n") if b'"choices":[]' in line
    )
    assert first is not None, "no token came"
    assert tail.endswith(b"data: [DONE]\n\n"), "the stream was cut"
    return Sample(first - started, time.perf_counter() - started, usage["completion_tokens"])


def _has_content(data: bytes) -> bool:
    return b'"content":"' in data.replace(b'"content":""', b"")


async def measure(client: httpx.AsyncClient, side: Side, seed: str) -> Round:
    alone = [await ask(client, side, f"{seed}-{n}") for n in range(ALONE)]
    started = time.perf_counter()
    together = await asyncio.gather(*(_lane(client, side, f"{seed}+{n}") for n in range(TOGETHER)))
    seconds = time.perf_counter() - started
    samples = [sample for lane in together for sample in lane]
    return Round(
        ttft_p50_s=statistics.median(s.ttft_s for s in alone),
        tokens_per_s=sum(s.tokens for s in samples) / seconds,
        busy_ttft_p50_s=statistics.median(s.ttft_s for s in samples),
    )


async def _lane(client: httpx.AsyncClient, side: Side, seed: str) -> list[Sample]:
    return [await ask(client, side, f"{seed}-{n}") for n in range(2)]


async def compare(foundry: Side, raw: Side, rounds: int) -> dict[str, float]:
    results: dict[str, list[Round]] = {foundry.name: [], raw.name: []}
    async with _client(foundry) as ours, _client(raw) as theirs:
        pairs = [(ours, foundry), (theirs, raw)]
        for client, side in pairs:
            await measure(client, side, "warm")
        for number in range(rounds):
            for client, side in pairs if number % 2 == 0 else pairs[::-1]:
                result = await measure(client, side, f"round {number}")
                results[side.name].append(result)
                _say(f"{number} {side.name} {result}")
    return _metrics(results[foundry.name], results[raw.name])


@asynccontextmanager
async def _client(side: Side) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {side.key}"}
    async with httpx.AsyncClient(headers=headers, timeout=300, trust_env=False) as client:
        yield client


def _metrics(ours: list[Round], theirs: list[Round]) -> dict[str, float]:
    def median(rounds: list[Round], field: str) -> float:
        return float(statistics.median(getattr(r, field) for r in rounds))

    values: dict[str, float] = {
        "ttft_p50_ratio_c1": median(ours, "ttft_p50_s") / median(theirs, "ttft_p50_s"),
        "throughput_ratio_c8": median(ours, "tokens_per_s") / median(theirs, "tokens_per_s"),
        "ttft_p50_ratio_c8": median(ours, "busy_ttft_p50_s") / median(theirs, "busy_ttft_p50_s"),
    }
    for name, rounds in (("foundry", ours), ("raw", theirs)):
        values[f"{name}_ttft_p50_ms_c1"] = median(rounds, "ttft_p50_s") * 1000
        values[f"{name}_tokens_per_s_c8"] = median(rounds, "tokens_per_s")
    return {name: round(value, 4) for name, value in values.items()}


@contextmanager
def raw_server(model_dir: Path, serving: ServingSettings, log: Path) -> Iterator[Side]:
    """vLLM's own OpenAI server with the arguments of Foundry's engine."""
    port = _free_port()
    arguments = {
        "model": model_dir,
        "served-model-name": "raw",
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": serving.max_model_len,
        "max-num-seqs": serving.max_num_seqs,
        "kv-cache-memory-bytes": int(serving.kv_cache_gb * GIB),
        "max-loras": serving.max_loras,
        "max-cpu-loras": serving.max_cpu_loras,
        "max-lora-rank": serving.max_lora_rank,
    }
    switches = ["enable-lora", "disable-log-stats", "disable-uvicorn-access-log"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    command += [f"--{name}" for name in switches]
    environment = child_environment(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_PLUGINS="")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            _await_health(f"http://127.0.0.1:{port}/health", process, log)
            yield Side("raw", f"http://127.0.0.1:{port}/v1", "none", "raw")
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_health(
    url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 300
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"vLLM's server did not start: {log.read_text()[-2000:]}")
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise SystemExit("vLLM's server was not ready in time")


@contextmanager
def foundry_stack() -> Iterator[Side]:
    """A stack that serves the demo's base as the demo does, with room for adapters."""
    with fresh_home() as settings:
        stack.up(settings, _say)
        with Foundry.from_settings(settings) as client:
            imported = client.jobs.wait(client.jobs.submit_import(name=BASE, source=BUNDLED).id)
            if imported.state != "SUCCEEDED":
                raise SystemExit(f"the import failed: {imported.error}")
            endpoint = client.endpoints.wait(client.endpoints.create(model=BASE, deploy=True).id)
            if endpoint.state != "RUNNING":
                raise SystemExit(f"{BASE} was not deployed: {endpoint.last_error}")
        yield Side("foundry", f"{settings.base_url}/v1", api_key(settings), BASE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-") as scratch,
        foundry_stack() as foundry,
    ):
        model_dir = Path(scratch) / "base"
        convert_gguf(bundled_gguf(), model_dir)
        with raw_server(model_dir, ServingSettings(), Path(scratch) / "raw.log") as raw:
            metrics = asyncio.run(compare(foundry, raw, ROUNDS))
    print(json.dumps({"bench": "relay", "metrics": metrics}))


if __name__ == "__main__":
    main()
