"""What is at the root: the pages for people, the API below /api, and nothing that runs or leaks."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from ray.serve._private.thirdparty.get_asgi_route_name import get_asgi_route_name

from foundry import __version__
from foundry.config import HttpSettings
from foundry.control.site import Site
from foundry.infra.http.stages import MIDDLEWARE_ORDER, Authenticate

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def site(control_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    app = Site(control_app, HttpSettings(max_body_bytes=1024))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://foundry") as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/api", "/api/"])
async def test_the_root_leads_browsers_to_the_reference(site: httpx.AsyncClient, path: str) -> None:
    answer = await site.get(path, headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
    assert answer.headers["vary"] == "accept"


@pytest.mark.parametrize("path", ["/", "/api"])
async def test_the_root_tells_programs_where_everything_is(
    site: httpx.AsyncClient, path: str
) -> None:
    answer = await site.get(path)
    assert answer.json() == {
        "name": "foundry",
        "version": __version__,
        "docs": "/docs",
        "openapi": "/api/openapi.json",
        "api": "/api",
        "inference": "/v1",
    }
    assert len(answer.headers["x-request-id"]) == 36


@pytest.mark.parametrize("path", ["/docs", "/api/docs"])
async def test_the_reference_needs_no_key_and_runs_nothing(
    site: httpx.AsyncClient, path: str
) -> None:
    answer = await site.get(path, headers=BROWSER)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await site.head(path)).status_code == 200


async def test_the_rest_of_api_is_the_control_plane(site: httpx.AsyncClient) -> None:
    assert (await site.get("/api/openapi.json")).json()["servers"] == [{"url": "/api"}]
    refused = await site.get("/api/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    # Unknown routes below /api are told only to who has a key, as they were.
    assert (await site.get("/api/nope")).status_code == 401
    assert (await site.get("/api/docs/x")).status_code == 401


@pytest.mark.parametrize(
    "path", ["/nope", "/favicon.ico", "/docs/", "/apis", "/metrics", "/api.json", "/../etc/passwd"]
)
async def test_what_is_nowhere_is_a_404_without_a_key(site: httpx.AsyncClient, path: str) -> None:
    answer = await site.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith("; /docs lists them all")


async def test_the_pages_keep_the_limits(site: httpx.AsyncClient, control_app: FastAPI) -> None:
    many = {f"x-{number}": "1" for number in range(70)}
    assert (await site.get("/docs", headers=many)).status_code == 400
    assert (await site.post("/docs", content=b" " * 2000)).status_code == 413
    wrong = await site.post("/docs")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    pages = Site(control_app, HttpSettings())._pages
    stages: list[object] = [stage.cls for stage in pages.user_middleware]
    assert stages == [stage for stage in MIDDLEWARE_ORDER if stage is not Authenticate]


def test_its_routes_are_known_by_name(control_app: FastAPI) -> None:
    """Ray Serve counts requests by route: one name for all models, not one for each."""
    site = Site(control_app, HttpSettings())
    scope = {"type": "http", "method": "GET", "path": "/api/models/smol", "root_path": ""}
    assert get_asgi_route_name(site, scope) == "/api/models/{name}"
    assert get_asgi_route_name(site, scope | {"path": "/docs"}) == "/docs"
    assert get_asgi_route_name(site, scope | {"path": "/nope"}) is None


async def test_behind_a_proxy_that_adds_a_prefix(control_app: FastAPI, tmp_path: Path) -> None:
    transport = httpx.ASGITransport(Site(control_app, HttpSettings()), root_path="/foundry")
    async with httpx.AsyncClient(transport=transport, base_url="http://x/foundry") as client:
        assert (await client.get("/", headers=BROWSER)).headers["location"] == "/foundry/docs"
        assert (await client.get("/api/openapi.json")).status_code == 200
        assert (await client.get("/api/models")).status_code == 401
