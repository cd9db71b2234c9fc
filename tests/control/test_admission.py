"""The control plane has the data plane's stages and admission."""

import pytest

from foundry.errors import Conflict
from foundry.governance.identity.domain import Role
from foundry.infra.http.stages import MIDDLEWARE_ORDER
from tests.control.client import Control, new_key
from tests.fakes.admission import Steps

pytestmark = pytest.mark.postgres


async def test_one_list_of_stages(control: Control) -> None:
    stages: list[object] = [stage.cls for stage in control.app.user_middleware]
    assert stages == list(MIDDLEWARE_ORDER)


async def test_a_route_passes_the_steps_after_its_policy(control: Control) -> None:
    steps = Steps()
    control.app.state.admission = steps.admission()
    answer = await control.client.get("/keys")
    assert answer.status_code == 200
    assert steps.log == ["+rate", "+claim", "+reserve", "-reserve", "-claim"]
    (admittee,) = steps.asked
    assert admittee.request_id == answer.headers["x-request-id"]
    assert admittee.principal.tenant_id == control.principal.tenant_id
    _, viewer = await new_key(control.database, control.principal, Role.VIEWER)
    denied = await control.client.post(
        "/keys", json={"name": "x"}, headers={"authorization": f"Bearer {viewer}"}
    )
    assert denied.status_code == 403
    assert len(steps.asked) == 1


async def test_a_refused_step_stops_the_route(control: Control) -> None:
    steps = Steps(refusals={"claim": Conflict("the key is in use")})
    control.app.state.admission = steps.admission()
    refused = await control.client.post("/keys", json={"name": "ci", "role": "member"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (409, "the key is in use")
    control.app.state.admission = Steps().admission()
    listed = (await control.client.get("/keys")).json()["data"]
    assert "ci" not in {key["name"] for key in listed}
