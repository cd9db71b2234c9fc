CREATE TABLE endpoint_windows (
    endpoint_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    started_at timestamptz NOT NULL,
    replica UUID NOT NULL,
    tenant_id UUID NOT NULL,
    window_s DOUBLE PRECISION NOT NULL,
    engine_version TEXT NOT NULL,
    statistics JSONB NOT NULL,
    closed BOOLEAN NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_endpoint_windows PRIMARY KEY (endpoint_id, revision, started_at, replica)
);

CREATE INDEX ix_endpoint_windows_age ON endpoint_windows (started_at);

CREATE INDEX ix_endpoint_windows_open ON endpoint_windows (started_at) WHERE NOT closed;

CREATE TABLE prediction_outcomes (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    endpoint_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    source TEXT NOT NULL,
    started_at timestamptz NOT NULL,
    window_s DOUBLE PRECISION NOT NULL,
    gpu TEXT NOT NULL,
    engine TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    configuration JSONB NOT NULL,
    configuration_digest TEXT NOT NULL,
    point JSONB NOT NULL,
    predictor_version TEXT NOT NULL,
    load JSONB NOT NULL,
    predicted JSONB NOT NULL,
    applied JSONB NOT NULL,
    actual JSONB NOT NULL,
    covered JSONB NOT NULL,
    n BIGINT NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_prediction_outcomes PRIMARY KEY (id),
    CONSTRAINT uq_prediction_outcomes_endpoint_id_revision_started_at_source UNIQUE (endpoint_id, revision, started_at, source),
    CONSTRAINT ck_prediction_outcomes_source CHECK (source IN ('gateway', 'load_test'))
);

CREATE INDEX ix_prediction_outcomes_listing ON prediction_outcomes (tenant_id, id);

CREATE INDEX ix_prediction_outcomes_pair ON prediction_outcomes (gpu, engine, started_at);

CREATE TABLE budsim_biases (
    gpu TEXT NOT NULL,
    engine TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    target TEXT NOT NULL,
    factor DOUBLE PRECISION NOT NULL,
    spread DOUBLE PRECISION NOT NULL,
    windows DOUBLE PRECISION NOT NULL,
    measured_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_budsim_biases PRIMARY KEY (gpu, engine, engine_version, target)
);

CREATE TABLE budsim_alarms (
    gpu TEXT NOT NULL,
    engine TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    reason TEXT NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_budsim_alarms PRIMARY KEY (gpu, engine)
);

CREATE TABLE budsim_models (
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    status TEXT NOT NULL,
    cv JSONB NOT NULL,
    reasons JSONB NOT NULL,
    created_at timestamptz NOT NULL,
    promoted_at timestamptz,
    CONSTRAINT pk_budsim_models PRIMARY KEY (version),
    CONSTRAINT ck_budsim_models_status CHECK (status IN ('active', 'shadow', 'retired'))
);

CREATE UNIQUE INDEX uq_budsim_models_active ON budsim_models (status) WHERE status = 'active';

CREATE TABLE budsim_advice (
    endpoint_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    reason TEXT NOT NULL,
    saving DOUBLE PRECISION,
    recommendation_id UUID,
    recommendation JSONB NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_budsim_advice PRIMARY KEY (endpoint_id)
);

CREATE INDEX ix_budsim_advice_listing ON budsim_advice (tenant_id, endpoint_id);

