"""What the shipped firewall lets through, between hosts of our own."""

import ast
import re
import subprocess
import sys

import pytest

from tests.hosts.links import Link, address
from tests.hosts.network import ROOT, Network, why_not
from tests.infra.test_cluster_configs import find_nft

# Hosts by their number: the node with the firewall, and who calls it.
_NODE, _OTHER_NODE, _CLIENT, _MONITOR, _STRANGER = range(5)
# HTTP, Ray's metrics, GCS, a replica where the system put it, SSH, and a service of the machine.
_PORTS = (8000, 8090, 6379, 40123, 22, 111)
_SERVE = """
import socket, sys, time
held = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
print("ready", flush=True)
time.sleep(600)
"""
_CALL = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reaches(port):
    try:
        socket.create_connection((sys.argv[1], port), timeout=float(sys.argv[2])).close()
    except OSError:
        return False
    return True
ports = [int(port) for port in sys.argv[3:]]
with ThreadPoolExecutor(len(ports)) as threads:
    print([port for port, yes in zip(ports, threads.map(reaches, ports)) if yes])
"""


def _rules_for_our_hosts() -> str:
    text = (ROOT / "cluster_configs" / "nftables.conf").read_text()
    for name, hosts in {
        "nodes": (_NODE, _OTHER_NODE),
        "clients": (_CLIENT,),
        "monitors": (_MONITOR,),
    }.items():
        addresses = ", ".join(address(host) for host in hosts)
        text, count = re.subn(rf"define {name} = .*", f"define {name} = {{ {addresses} }}", text)
        assert count == 1
    return text


def _reached(network: Network, caller: int, timeout_s: float) -> list[int]:
    """Which ports of the node a host gets through to."""
    ports = map(str, _PORTS)
    inside = ["ip", "netns", "exec", network.host(caller), sys.executable, "-c", _CALL]
    command = [*inside, address(_NODE), str(timeout_s), *ports]
    found: list[int] = ast.literal_eval(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return found


def test_ports_are_open_to_whom_they_are_for() -> None:
    if (nft := find_nft()) is None:
        pytest.skip("nft is not installed: the firewall is loaded nowhere")
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Network.opened() as network:
        for host in (_NODE, _OTHER_NODE, _CLIENT, _MONITOR, _STRANGER):
            network.add(host, Link(mbit_s=1000.0))
        log = network.scratch / "server.log"
        network.start(_NODE, [sys.executable, "-c", _SERVE, *map(str, _PORTS)], {}, log)
        # Bring the hosts' addresses up, which the very first packets wait for.
        while log.read_text() != "ready\n" or _reached(network, _STRANGER, 60) != list(_PORTS):
            pass
        load = ["ip", "netns", "exec", network.host(_NODE), nft, "-f", "-"]
        # Twice: loading it again replaces it.
        for _ in range(2):
            subprocess.run(load, check=True, input=_rules_for_our_hosts(), text=True)
        # What is let through answers at once; what is dropped takes the whole time.
        assert _reached(network, _STRANGER, 4) == [22]
        assert _reached(network, _OTHER_NODE, 4) == [8000, 8090, 6379, 40123, 22]
        assert _reached(network, _CLIENT, 4) == [8000, 22]
        assert _reached(network, _MONITOR, 4) == [8090, 22]
        assert _reached(network, _NODE, 4) == list(_PORTS)
