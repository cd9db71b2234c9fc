"""Around every application's HTTP server, by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`."""

from starlette.middleware import Middleware

from foundry.infra.http.stages import RequestId


def stages() -> list[Middleware]:
    """Serve adds a request id of its own to answers; from out here ours takes its place."""
    return [Middleware(RequestId)]
