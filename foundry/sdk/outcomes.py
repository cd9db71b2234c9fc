"""What predictions came to: outcomes, corrections, models of the predictor and advice."""

from collections.abc import Mapping
from uuid import UUID

from foundry.sdk._transport import Call, Resource, S_co, operation, pages, path
from foundry.sdk.paging import Listed, Page
from foundry.serving.outcomes.schemas import (
    AdviceOut,
    ArtifactOut,
    LoadTestIn,
    ModelIn,
    ModelOut,
    OutcomeOut,
    RecalibrateIn,
    RecalibrationOut,
    StalenessOut,
)


class OutcomePage(Page[OutcomeOut]):
    """Outcomes, and how far predictions of them can be trusted now.

    Attributes:
        staleness: the alarm of every accelerator and engine version.
        refit_due: `foundry budsim fit` would learn from what was measured.
    """

    staleness: list[StalenessOut]
    refit_due: bool


class Outcomes(Resource[S_co]):
    @pages("budsim_outcomes")
    def list(
        self,
        *,
        endpoint_id: UUID | str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Call[OutcomePage]:
        """One page, newest first, with the alarm of every accelerator and engine version."""
        query = {
            "endpoint_id": str(endpoint_id) if endpoint_id else None,
            "cursor": cursor,
            "limit": limit,
        }
        return Call("GET", path("budsim", "outcomes"), OutcomePage, query)

    @pages("budsim_advice")
    def advice(self, *, cursor: str | None = None, limit: int = 50) -> Call[Page[AdviceOut]]:
        """Better configurations for running endpoints; approve one by configuring and deploying."""
        query = {"cursor": cursor, "limit": limit}
        return Call("GET", path("budsim", "advice"), Page[AdviceOut], query)

    @operation("budsim_recalibrate")
    def recalibrate(
        self, load_test: LoadTestIn | Mapping[str, object] | None = None
    ) -> Call[RecalibrationOut]:
        """Compute the corrections anew, with a load test's measurements if there are some.

        Raises Conflict: the tested endpoint does not run.
        """
        body = RecalibrateIn.model_validate({"load_test": load_test})
        return Call("POST", path("budsim", "recalibrate"), RecalibrationOut, body=body)

    @operation("budsim_models")
    def models(self) -> Call[Listed[ModelOut]]:
        """Versions of the predictor, newest first; version 0 is the shipped one."""
        return Call("GET", path("budsim", "models"), Listed[ModelOut])

    @operation("budsim_upload_artifact")
    def upload_artifact(self, packed: bytes) -> Call[ArtifactOut]:
        """Store a packed predictor (`budsim.packing.pack`), to register it by its digest.

        Raises InvalidArtifact: the bytes are no predictor that the server reads.
        """
        return Call("POST", path("budsim", "artifacts"), ArtifactOut, body=packed, slow=True)

    @operation("budsim_register_model")
    def register_model(
        self,
        version: str,
        digest: str,
        cv: Mapping[str, float],
        *,
        site_cv: Mapping[str, tuple[float, float]] | None = None,
    ) -> Call[ModelOut]:
        """Add a fitted model: active if it is better than the active one, else a shadow.

        Args:
            digest: of an uploaded artifact.
            cv: split → error of the grouped cross-validation.
            site_cv: deployment → errors of the active model and of this one on its windows.
        """
        body = ModelIn(version=version, digest=digest, cv=dict(cv), site_cv=dict(site_cv or {}))
        return Call("POST", path("budsim", "models"), ModelOut, body=body)

    @operation("budsim_promote")
    def promote(self, version: str) -> Call[ModelOut]:
        """Make a version the active one; an older one rolls back. Raises NotFound."""
        return Call("POST", path("budsim", "models", version, "promote"), ModelOut)
