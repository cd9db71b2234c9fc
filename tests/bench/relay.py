"""`make bench NAME=relay`: a base model through Foundry against vLLM's own server.

Same model, engine arguments, prompts and client, for 1, 8 and 16 clients. vLLM is measured as it
is shipped and `equal`: with the engine tuning that Foundry starts it with (processes that sleep
while they wait, and all cores). The sides take turns, one busy at a time, and medians over the
rounds are reported. All engines stay up, so none is measured cold.
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
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from foundry.config import ServingSettings, child_environment
from foundry.engines.training.gguf_import import bundled_gguf, convert_gguf
from foundry.execution.jobs.domain import BUNDLED
from foundry.infra.embedded import stack as embedded
from foundry.sdk import Foundry
from tests.bench.stack import fresh_home
from workflows.demo import BASE, read_api_key

ROUNDS = 5
MAX_TOKENS = 32
# Clients at once → requests of each.
LOADS = {1: 8, 8: 2, 16: 2}
# What `supervisor.vllm_runtime` sets for its replicas, against what vLLM does by itself.
TUNINGS = {
    "raw": {"VLLM_PLUGINS": ""},
    "equal": {"VLLM_PLUGINS": "foundry", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"},
}
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
    """Results of one side, by the number of clients."""

    ttft_p50_s: dict[int, float]
    tokens_per_s: dict[int, float]


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
    ttfts: dict[int, float] = {}
    speeds: dict[int, float] = {}
    for clients, each in LOADS.items():
        started = time.perf_counter()
        lanes = await asyncio.gather(
            *(_lane(client, side, f"{seed}+{clients}.{n}", each) for n in range(clients))
        )
        seconds = time.perf_counter() - started
        samples = [sample for lane in lanes for sample in lane]
        ttfts[clients] = statistics.median(sample.ttft_s for sample in samples)
        speeds[clients] = sum(sample.tokens for sample in samples) / seconds
    return Round(ttfts, speeds)


async def _lane(client: httpx.AsyncClient, side: Side, seed: str, each: int) -> list[Sample]:
    return [await ask(client, side, f"{seed}-{n}") for n in range(each)]


async def compare(sides: list[Side], rounds: int) -> dict[str, float]:
    results: dict[str, list[Round]] = {side.name: [] for side in sides}
    async with AsyncExitStack() as stack:
        pairs = [(await stack.enter_async_context(_client(side)), side) for side in sides]
        for client, side in pairs:
            await measure(client, side, "warm")
        for number in range(rounds):
            for client, side in pairs if number % 2 == 0 else pairs[::-1]:
                result = await measure(client, side, f"round {number}")
                results[side.name].append(result)
                _say(f"{number} {side.name} {result}")
    return metrics_of(results)


@asynccontextmanager
async def _client(side: Side) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {side.key}"}
    async with httpx.AsyncClient(headers=headers, timeout=300, trust_env=False) as client:
        yield client


def metrics_of(results: dict[str, list[Round]]) -> dict[str, float]:
    """Medians of each side, and Foundry's as a ratio of vLLM's, as shipped and equally tuned."""
    values: dict[str, float] = {}
    for clients in LOADS:
        ttft_s = {
            name: statistics.median(each.ttft_p50_s[clients] for each in rounds)
            for name, rounds in results.items()
        }
        speed = {
            name: statistics.median(each.tokens_per_s[clients] for each in rounds)
            for name, rounds in results.items()
        }
        for name in results:
            values[f"{name}_ttft_p50_ms_c{clients}"] = ttft_s[name] * 1000
            values[f"{name}_tokens_per_s_c{clients}"] = speed[name]
        for name, label in (("raw", ""), ("equal", "_equal")):
            values[f"ttft_p50_ratio{label}_c{clients}"] = ttft_s["foundry"] / ttft_s[name]
            values[f"throughput_ratio{label}_c{clients}"] = speed["foundry"] / speed[name]
    return {name: round(value, 4) for name, value in values.items()}


@contextmanager
def raw_server(name: str, model_dir: Path, serving: ServingSettings, log: Path) -> Iterator[Side]:
    """vLLM's own OpenAI server with the arguments of Foundry's engine, tuned as `name` says."""
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
    environment = child_environment(
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_NO_USAGE_STATS="1",
        **TUNINGS[name],
    )
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            _await_health(f"http://127.0.0.1:{port}/health", process, log)
            yield Side(name, f"http://127.0.0.1:{port}/v1", "none", "raw")
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
        embedded.up(settings, _say)
        with Foundry.from_settings(settings) as client:
            imported = client.jobs.wait(client.jobs.submit_import(name=BASE, source=BUNDLED).id)
            if imported.state != "SUCCEEDED":
                raise SystemExit(f"the import failed: {imported.error}")
            endpoint = client.endpoints.wait(client.endpoints.create(model=BASE, deploy=True).id)
            if endpoint.state != "RUNNING":
                raise SystemExit(f"{BASE} was not deployed: {endpoint.last_error}")
        yield Side("foundry", f"{settings.base_url}/v1", read_api_key(settings), BASE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-") as scratch,
        foundry_stack() as foundry,
    ):
        model_dir = Path(scratch) / "base"
        convert_gguf(bundled_gguf(), model_dir)
        with ExitStack() as stack:
            peers = [
                stack.enter_context(
                    raw_server(name, model_dir, ServingSettings(), Path(scratch) / f"{name}.log")
                )
                for name in TUNINGS
            ]
            metrics = asyncio.run(compare([foundry, *peers], ROUNDS))
    print(json.dumps({"bench": "relay", "metrics": metrics}))


if __name__ == "__main__":
    main()
