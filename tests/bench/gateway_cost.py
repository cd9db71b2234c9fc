"""`make bench NAME=gateway_cost`: what the data plane adds to an engine that costs nothing.

Three servers on loopback, each a process of its own with one worker: the fake engine alone behind
a bare ASGI application (`direct`); the gateway with all its stages, real keys and real routing on
an embedded PostgreSQL, in front of the same fake engine through frames; and, where its environment
is installed, LiteLLM's proxy in front of `direct`. They take turns, one busy at a time. What a side
adds is its quantile less that of `direct`; requests per core are those per second of processor time
that the side's own process used.

`python -m tests.bench.gateway_cost --install-peer` makes LiteLLM's environment once.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from foundry.config import DatabaseSettings, HttpSettings, SecuritySettings, load_settings
from foundry.gateway.app import create_gateway
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from foundry.infra.embedded.ports import find_free_ports
from foundry.infra.wire.frames import CallContext
from foundry.serving.endpoints.service import Routing
from foundry.serving.engine.engine import Body
from tests.bench.peers.environments import find_peer, install_peer
from tests.control.client import PEPPER, administrator, new_key
from tests.fakes.engine import FakeEngine, FakeUpstream
from tests.gateway.conftest import RecordingMeter
from tests.postgres import running_server
from tests.serving.endpoints.test_service import Floor

ROUNDS = 5
ALONE = 400
LANES = 8
PER_LANE = 100
MODEL = "smol"
BODY = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "How do libraries lend books?"}]}
).encode()


@dataclass(frozen=True)
class Side:
    """A server: where it listens, what it wants to be sent, and its process."""

    name: str
    port: int
    request: bytes
    process: psutil.Process

    def cpu_s(self) -> float:
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in family)


@dataclass(frozen=True)
class Round:
    """Seconds alone; then, with all lanes, requests per second and per second of processor."""

    latencies_s: list[float]
    per_s: float
    per_core_s: float


class Lane:
    """One kept connection; a client library would cost more than what is measured."""

    def __init__(self, side: Side) -> None:
        self._side = side

    async def __aenter__(self) -> "Lane":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._side.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self) -> float:
        """Seconds from the request to the last byte of its answer."""
        started = time.perf_counter()
        self._writer.write(self._side.request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        body = await self._reader.readexactly(length)
        seconds = time.perf_counter() - started
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{self._side.name}: {body.decode()}")
        return seconds


def request_bytes(port: int, key: str) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


async def measure(side: Side) -> Round:
    async with Lane(side) as lane:
        alone = [await lane.ask() for _ in range(ALONE)]
    cpu_s, started = side.cpu_s(), time.perf_counter()
    await asyncio.gather(*(_busy(side) for _ in range(LANES)))
    seconds, used_s = time.perf_counter() - started, side.cpu_s() - cpu_s
    count = LANES * PER_LANE
    return Round(alone, count / seconds, count / used_s)


async def _busy(side: Side) -> None:
    async with Lane(side) as lane:
        for _ in range(PER_LANE):
            await lane.ask()


async def compare(sides: list[Side]) -> dict[str, list[Round]]:
    results: dict[str, list[Round]] = {side.name: [] for side in sides}
    for side in sides:
        await measure(side)
    for number in range(ROUNDS):
        for side in sides if number % 2 == 0 else sides[::-1]:
            result = await measure(side)
            results[side.name].append(result)
            print(
                f"{number} {side.name} p50 {statistics.median(result.latencies_s) * 1000:.2f} ms, "
                f"{result.per_s:.0f}/s, {result.per_core_s:.0f} per core and second",
                file=sys.stderr,
                flush=True,
            )
    return results


def metrics_of(results: dict[str, list[Round]]) -> dict[str, float]:
    direct = results["direct"]
    values: dict[str, float] = {}
    for name, rounds in results.items():
        prefix = "" if name == "gateway" else f"{name}_"
        values[f"{prefix}requests_per_s_c8"] = statistics.median(r.per_s for r in rounds)
        values[f"{prefix}requests_per_core_s_c8"] = statistics.median(r.per_core_s for r in rounds)
        for percent in (50, 99):
            own, bare = _quantile_ms(rounds, percent), _quantile_ms(direct, percent)
            added = {f"{prefix}added_p{percent}_ms": own - bare}
            values |= {f"direct_p{percent}_ms": bare} if name == "direct" else added
    if "litellm" in results:
        values["added_p50_ratio"] = values["added_p50_ms"] / values["litellm_added_p50_ms"]
        values["requests_per_core_ratio"] = (
            values["requests_per_core_s_c8"] / values["litellm_requests_per_core_s_c8"]
        )
    return {name: round(value, 3) for name, value in values.items()}


def _quantile_ms(rounds: list[Round], percent: int) -> float:
    """The median over the rounds of each round's quantile."""
    return 1000 * statistics.median(
        statistics.quantiles(each.latencies_s, n=100, method="inclusive")[percent - 1]
        for each in rounds
    )


def direct_app() -> Starlette:
    engine = FakeEngine()

    async def chat(request: Request) -> Response:
        answer = await engine.answer("chat", await request.body(), CallContext("r", MODEL, 60))
        assert isinstance(answer, Body)
        _forget(engine)
        return Response(answer.json, media_type="application/json")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def _forget(engine: FakeEngine) -> None:
    """What a fake keeps for assertions would grow with the run."""
    engine.calls.clear()
    engine.bodies.clear()


class _ForgettingMeter(RecordingMeter):
    def __init__(self, engine: FakeEngine, upstream: FakeUpstream) -> None:
        super().__init__()
        self._engine, self._upstream = engine, upstream

    def settle(self, settlement: object) -> None:
        _forget(self._engine)
        self._upstream.app_names.clear()


def gateway_app(url: str) -> Starlette:
    database = Database(url, DatabaseSettings())
    engine = FakeEngine()
    upstream = FakeUpstream(engine)
    gateway = create_gateway(
        database=database,
        authenticator=Authenticator(database, PEPPER, SecuritySettings()),
        routing=Routing(database, max_model_len=2048),
        upstream=upstream,
        meter=_ForgettingMeter(engine, upstream),
        settings=HttpSettings(),
    )
    return Starlette(routes=[Mount("/v1", gateway)])


async def prepare(url: str, root: Path) -> str:
    """A running endpoint of `MODEL`, and the text of a key that may use it."""
    async with Database(url, DatabaseSettings()) as database:
        caller = await administrator(database, "bench")
        _, key = await new_key(database, caller)
        floor = Floor(database, root, caller)
        await floor.models()
        await floor.run(await floor.deployed(MODEL))
    return key


@contextmanager
def served(name: str, port: int, key: str, command: list[str | Path]) -> Iterator[Side]:
    with subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr) as process:
        try:
            side = Side(name, port, request_bytes(port, key), psutil.Process(process.pid))
            _await_answer(side, key, process)
            yield side
        finally:
            process.terminate()


def _await_answer(side: Side, key: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    url, headers = (
        f"http://127.0.0.1:{side.port}/v1/chat/completions",
        {"authorization": f"Bearer {key}"},
    )
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = httpx.post(url, content=BODY, headers=headers, timeout=10, trust_env=False)
            if answer.status_code == 200:
                return
            print(f"{side.name}: {answer.text}", file=sys.stderr)
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{side.name} did not start")


def litellm_command(python: Path, scratch: Path, port: int, direct_port: int) -> list[str | Path]:
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{direct_port}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": "sk-bench"},
        "litellm_settings": {"telemetry": False},
    }
    # JSON is YAML.
    path = scratch / "litellm.yaml"
    path.write_text(json.dumps(config))
    script = python.parent / "litellm"
    return [script, "--config", path, "--host", "127.0.0.1", "--port", str(port)]


def run(cache: Path) -> dict[str, float]:
    direct_port, gateway_port, peer_port = (
        port for port, _ in zip(find_free_ports(str(cache)), range(3), strict=False)
    )
    own: list[str | Path] = [sys.executable, "-m", "tests.bench.gateway_cost", "--serve"]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-cost-")))
        server = stack.enter_context(running_server())
        url = server.url("template_foundry")
        key = asyncio.run(prepare(url, scratch))
        sides = [
            stack.enter_context(
                served("direct", direct_port, "none", [*own, "direct", str(direct_port)])
            ),
            stack.enter_context(
                served("gateway", gateway_port, key, [*own, "gateway", str(gateway_port), url])
            ),
        ]
        if python := find_peer(cache, "litellm"):
            command = litellm_command(python, scratch, peer_port, direct_port)
            sides.append(stack.enter_context(served("litellm", peer_port, "sk-bench", command)))
        else:
            print("litellm is left out: --install-peer installs it", file=sys.stderr)
        return metrics_of(asyncio.run(compare(sides)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", nargs="+", metavar="SIDE")
    parser.add_argument("--install-peer", action="store_true")
    options = parser.parse_args()
    if options.serve:
        name, port, *rest = options.serve
        app = direct_app() if name == "direct" else gateway_app(*rest)
        uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
        return
    cache = load_settings().home / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    if options.install_peer:
        install_peer(cache, "litellm")
    print(json.dumps({"bench": "gateway_cost", "metrics": run(cache)}))


if __name__ == "__main__":
    main()
