CREATE TABLE endpoint_revisions (
    endpoint_id UUID NOT NULL,
    number INTEGER NOT NULL,
    tenant_id UUID NOT NULL,
    base_digest TEXT NOT NULL,
    app_name TEXT NOT NULL,
    config JSONB NOT NULL,
    config_digest TEXT NOT NULL,
    replicas INTEGER NOT NULL,
    applied_replicas INTEGER,
    desired TEXT NOT NULL,
    state TEXT NOT NULL,
    strategy TEXT,
    reason TEXT,
    progress JSONB NOT NULL,
    crashes INTEGER NOT NULL,
    crashing_since timestamptz,
    deadline_at timestamptz,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_endpoint_revisions PRIMARY KEY (endpoint_id, number),
    CONSTRAINT ck_endpoint_revisions_desired CHECK (desired IN ('running', 'removed')),
    CONSTRAINT ck_endpoint_revisions_strategy CHECK (strategy IN ('surge', 'recreate')),
    CONSTRAINT ck_endpoint_revisions_state CHECK (state IN ('PENDING', 'VALIDATING', 'TRANSFERRING',
        'DEPLOYING', 'VERIFYING', 'READY', 'DEGRADED', 'DRAINING', 'REMOVED', 'FAILED'))
);

CREATE UNIQUE INDEX uq_endpoint_revisions_app_name ON endpoint_revisions (app_name);

CREATE UNIQUE INDEX uq_endpoint_revisions_number ON endpoint_revisions (base_digest, number);

CREATE INDEX ix_endpoint_revisions_wanted ON endpoint_revisions (endpoint_id)
    WHERE desired = 'running';

CREATE TABLE supervisor_leases (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    token BIGINT NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_supervisor_leases PRIMARY KEY (name)
);

-- What runs is adopted under its present name; what was starting gets a fresh deadline.
INSERT INTO endpoint_revisions
SELECT id, revision, tenant_id, base_digest, app_name, config, '',
    coalesce((config ->> 'replicas')::integer, 1),
    CASE WHEN state IN ('RUNNING', 'DEGRADED', 'UPDATING')
        THEN coalesce((config ->> 'replicas')::integer, 1) END,
    CASE WHEN desired = 'running' AND state <> 'FAILED' THEN 'running' ELSE 'removed' END,
    CASE
        WHEN state IN ('RUNNING', 'UPDATING') THEN 'READY'
        WHEN state = 'DEGRADED' THEN 'DEGRADED'
        WHEN state IN ('PENDING', 'VALIDATING', 'TRANSFERRING', 'DEPLOYING', 'VERIFYING')
            THEN 'PENDING'
        WHEN state = 'FAILED' THEN 'FAILED'
        ELSE 'REMOVED'
    END,
    NULL, last_error, '{}', 0, NULL, now() + interval '15 minutes', created_by, updated_at,
    updated_at
FROM endpoints
WHERE revision > 0;

ALTER TABLE endpoints
    ADD COLUMN serving_revision INTEGER,
    ADD COLUMN target_revision INTEGER,
    ADD COLUMN fallback_revision INTEGER,
    ADD COLUMN version BIGINT NOT NULL DEFAULT 0;

UPDATE endpoints SET
    target_revision = nullif(revision, 0),
    serving_revision = CASE WHEN state IN ('RUNNING', 'DEGRADED', 'UPDATING') THEN revision END,
    state = CASE
        WHEN state = 'UPDATING' THEN 'RUNNING'
        WHEN state IN ('VALIDATING', 'TRANSFERRING', 'DEPLOYING', 'VERIFYING') THEN 'PENDING'
        ELSE state
    END;

ALTER TABLE endpoints
    ALTER COLUMN version DROP DEFAULT,
    DROP COLUMN revision,
    DROP COLUMN previous_app_name;

DROP INDEX uq_endpoints_model;

CREATE INDEX ix_endpoints_model ON endpoints (tenant_id, model_version_id)
    WHERE state <> 'DELETED';
