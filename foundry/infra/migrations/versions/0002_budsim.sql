CREATE TABLE recommendations (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    method TEXT NOT NULL,
    model TEXT,
    config_json JSONB NOT NULL,
    checkpoint_bytes BIGINT,
    request JSONB NOT NULL,
    prices JSONB NOT NULL,
    learnt JSONB NOT NULL,
    catalogue_digest TEXT NOT NULL,
    predictor_version TEXT NOT NULL,
    result JSONB,
    error JSONB,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT pk_recommendations PRIMARY KEY (id),
    CONSTRAINT ck_recommendations_state CHECK (state IN ('PENDING', 'RUNNING', 'DONE', 'FAILED'))
);

CREATE INDEX ix_recommendations_listing ON recommendations (tenant_id, project_id, id);

-- Equal questions share an answer; a failed search may be asked again.
CREATE UNIQUE INDEX uq_recommendations_digest ON recommendations (tenant_id, project_id, digest)
    WHERE state <> 'FAILED';

CREATE TABLE price_lists (
    tenant_id UUID NOT NULL,
    version INTEGER NOT NULL,
    prices JSONB NOT NULL,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_price_lists PRIMARY KEY (tenant_id, version)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON price_lists
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE probed_hardware (
    gpu TEXT NOT NULL,
    measured JSONB NOT NULL,
    measured_at timestamptz NOT NULL,
    CONSTRAINT pk_probed_hardware PRIMARY KEY (gpu)
);

CREATE TABLE endpoint_predictions (
    endpoint_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    tenant_id UUID NOT NULL,
    recommendation_id UUID,
    configuration JSONB NOT NULL,
    workload JSONB NOT NULL,
    predicted JSONB NOT NULL,
    model_version TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_endpoint_predictions PRIMARY KEY (endpoint_id, revision)
);

ALTER TABLE endpoints
    ADD COLUMN optimization JSONB,
    ADD COLUMN recommendation_id UUID,
    ADD COLUMN next_config JSONB,
    ADD COLUMN previous_app_name TEXT;
