-- Identity, audit, registry, datasets, jobs, endpoints.
-- Statements are separated by blank lines.

CREATE TABLE tenants (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_tenants PRIMARY KEY (id),
    CONSTRAINT uq_tenants_name UNIQUE (name)
);

CREATE TABLE projects (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    name TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_projects PRIMARY KEY (id),
    CONSTRAINT uq_projects_tenant_id_name UNIQUE (tenant_id, name),
    CONSTRAINT fk_projects_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id)
);

CREATE TABLE api_keys (
    id TEXT NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID NOT NULL,
    name TEXT NOT NULL,
    environment TEXT NOT NULL,
    hash TEXT NOT NULL,
    prefilter BYTEA NOT NULL,
    subject TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    role TEXT NOT NULL,
    scopes JSONB NOT NULL,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT ck_api_keys_role CHECK (role IN ('viewer', 'member', 'admin')),
    CONSTRAINT ck_api_keys_prefilter CHECK (octet_length(prefilter) = 8),
    CONSTRAINT fk_api_keys_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id),
    CONSTRAINT fk_api_keys_project_id_projects FOREIGN KEY(project_id) REFERENCES projects (id)
);

CREATE INDEX ix_api_keys_listing ON api_keys (tenant_id, created_at, id);

CREATE TABLE audit_events (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID,
    at timestamptz NOT NULL,
    actor_type TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    action TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    request_id TEXT NOT NULL,
    before JSONB,
    after JSONB,
    reason TEXT,
    CONSTRAINT pk_audit_events PRIMARY KEY (id)
);

CREATE INDEX ix_audit_events_listing ON audit_events (tenant_id, id);

CREATE INDEX ix_audit_events_resource ON audit_events (tenant_id, resource_type, resource_id, id);

CREATE TABLE models (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    architecture TEXT,
    parameter_count BIGINT,
    context_length INTEGER,
    licence TEXT,
    tags JSONB NOT NULL,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    CONSTRAINT pk_models PRIMARY KEY (id),
    CONSTRAINT uq_models_tenant_id_name UNIQUE (tenant_id, name),
    CONSTRAINT ck_models_kind CHECK (kind IN ('base', 'adapter', 'merged')),
    CONSTRAINT ck_models_name CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,127}$')
);

CREATE TABLE model_versions (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    model_id UUID NOT NULL,
    major INTEGER NOT NULL,
    minor INTEGER NOT NULL,
    patch INTEGER NOT NULL,
    pre TEXT NOT NULL,
    pre_key TEXT COLLATE "C" NOT NULL,
    build TEXT NOT NULL,
    kind TEXT NOT NULL,
    parent_version_id UUID,
    base_version_id UUID,
    relation TEXT NOT NULL,
    stage TEXT NOT NULL,
    digest TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    job_id UUID,
    dataset_version_id UUID,
    architecture TEXT,
    parameter_count BIGINT,
    context_length INTEGER,
    lora_rank INTEGER,
    lora_targets JSONB,
    config_digest TEXT,
    code_ref TEXT,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    tombstoned_at timestamptz,
    tombstoned_by TEXT,
    tombstone_reason TEXT,
    CONSTRAINT pk_model_versions PRIMARY KEY (id),
    CONSTRAINT uq_model_versions_model_id_major_minor_patch_pre_key UNIQUE (model_id, major,
        minor, patch, pre_key),
    CONSTRAINT ck_model_versions_stage CHECK (stage IN ('uploading', 'scanning', 'ready',
        'quarantined', 'deprecated', 'tombstoned')),
    CONSTRAINT ck_model_versions_digest CHECK (digest ~ '^[0-9a-f]{64}$'),
    CONSTRAINT fk_model_versions_model_id_models FOREIGN KEY(model_id) REFERENCES models (id) ON
        DELETE RESTRICT,
    CONSTRAINT fk_model_versions_parent_version_id_model_versions FOREIGN KEY(parent_version_id)
        REFERENCES model_versions (id) ON DELETE RESTRICT,
    CONSTRAINT fk_model_versions_base_version_id_model_versions FOREIGN KEY(base_version_id)
        REFERENCES model_versions (id) ON DELETE RESTRICT
);

CREATE INDEX ix_model_versions_base_version_id ON model_versions (base_version_id);

CREATE INDEX ix_model_versions_parent_version_id ON model_versions (parent_version_id);

CREATE UNIQUE INDEX uq_model_versions_job ON model_versions (tenant_id, job_id, digest) WHERE
    job_id IS NOT NULL;

CREATE TABLE version_parents (
    child_id UUID NOT NULL,
    parent_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    relation TEXT NOT NULL,
    CONSTRAINT pk_version_parents PRIMARY KEY (child_id, parent_id),
    CONSTRAINT fk_version_parents_child_id_model_versions FOREIGN KEY(child_id) REFERENCES
        model_versions (id) ON DELETE RESTRICT,
    CONSTRAINT fk_version_parents_parent_id_model_versions FOREIGN KEY(parent_id) REFERENCES
        model_versions (id) ON DELETE RESTRICT
);

CREATE INDEX ix_version_parents_parent_id ON version_parents (parent_id);

CREATE TABLE blobs (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    object_key TEXT NOT NULL,
    state TEXT NOT NULL,
    refcount INTEGER NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_blobs PRIMARY KEY (id),
    CONSTRAINT ck_blobs_state CHECK (state IN ('live', 'deleting')),
    CONSTRAINT ck_blobs_refcount CHECK (refcount >= 0)
);

CREATE UNIQUE INDEX uq_blobs_live ON blobs (tenant_id, sha256) WHERE state = 'live';

CREATE TABLE version_files (
    version_id UUID NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    tenant_id UUID NOT NULL,
    size BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    media_type TEXT NOT NULL,
    blob_id UUID NOT NULL,
    CONSTRAINT pk_version_files PRIMARY KEY (version_id, path),
    CONSTRAINT fk_version_files_version_id_model_versions FOREIGN KEY(version_id) REFERENCES
        model_versions (id) ON DELETE RESTRICT,
    CONSTRAINT fk_version_files_blob_id_blobs FOREIGN KEY(blob_id) REFERENCES blobs (id) ON
        DELETE RESTRICT
);

CREATE INDEX ix_version_files_blob_id ON version_files (blob_id);

CREATE TABLE model_aliases (
    model_id UUID NOT NULL,
    name TEXT NOT NULL,
    tenant_id UUID NOT NULL,
    version_id UUID NOT NULL,
    row_version BIGINT NOT NULL,
    protected BOOLEAN NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_model_aliases PRIMARY KEY (model_id, name),
    CONSTRAINT ck_model_aliases_name CHECK (name <> 'latest' AND name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    CONSTRAINT fk_model_aliases_model_id_models FOREIGN KEY(model_id) REFERENCES models (id) ON
        DELETE RESTRICT,
    CONSTRAINT fk_model_aliases_version_id_model_versions FOREIGN KEY(version_id) REFERENCES
        model_versions (id) ON DELETE RESTRICT
);

CREATE INDEX ix_model_aliases_version_id ON model_aliases (version_id);

CREATE TABLE alias_events (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant_id UUID NOT NULL,
    model_id UUID NOT NULL,
    alias TEXT NOT NULL,
    from_version_id UUID,
    to_version_id UUID,
    actor TEXT NOT NULL,
    reason TEXT,
    request_id TEXT NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT pk_alias_events PRIMARY KEY (id),
    CONSTRAINT fk_alias_events_model_id_models FOREIGN KEY(model_id) REFERENCES models (id) ON
        DELETE RESTRICT
);

CREATE INDEX ix_alias_events_listing ON alias_events (model_id, alias, id);

CREATE TABLE version_metrics (
    version_id UUID NOT NULL,
    name TEXT NOT NULL,
    step BIGINT NOT NULL,
    tenant_id UUID NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT pk_version_metrics PRIMARY KEY (version_id, name, step),
    CONSTRAINT fk_version_metrics_version_id_model_versions FOREIGN KEY(version_id) REFERENCES
        model_versions (id) ON DELETE RESTRICT
);

CREATE TABLE datasets (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_datasets PRIMARY KEY (id),
    CONSTRAINT uq_datasets_tenant_id_project_id_name UNIQUE (tenant_id, project_id, name),
    CONSTRAINT ck_datasets_name CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,127}$')
);

CREATE TABLE dataset_versions (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID NOT NULL,
    dataset_id UUID NOT NULL,
    number INTEGER NOT NULL,
    digest TEXT NOT NULL,
    kind TEXT NOT NULL,
    train_rows BIGINT NOT NULL,
    eval_rows BIGINT NOT NULL,
    duplicate_rows BIGINT NOT NULL,
    bad_rows BIGINT NOT NULL,
    options JSONB NOT NULL,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_dataset_versions PRIMARY KEY (id),
    CONSTRAINT uq_dataset_versions_dataset_id_number UNIQUE (dataset_id, number),
    CONSTRAINT fk_dataset_versions_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES
        datasets (id) ON DELETE RESTRICT
);

CREATE UNIQUE INDEX uq_dataset_versions_digest ON dataset_versions (dataset_id, digest);

CREATE TABLE dataset_files (
    version_id UUID NOT NULL,
    path TEXT NOT NULL,
    tenant_id UUID NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    object_key TEXT NOT NULL,
    CONSTRAINT pk_dataset_files PRIMARY KEY (version_id, path),
    CONSTRAINT fk_dataset_files_version_id_dataset_versions FOREIGN KEY(version_id) REFERENCES
        dataset_versions (id) ON DELETE RESTRICT
);

CREATE TABLE jobs (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    spec JSONB NOT NULL,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    fence BIGINT NOT NULL,
    submission_id TEXT,
    heartbeat_at timestamptz,
    cancel_requested BOOLEAN NOT NULL,
    progress JSONB NOT NULL,
    error JSONB,
    result JSONB,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT pk_jobs PRIMARY KEY (id),
    CONSTRAINT ck_jobs_state CHECK (state IN ('QUEUED', 'ADMITTED', 'STARTING', 'RUNNING',
        'CHECKPOINTING', 'STALLED', 'SUCCEEDED', 'FAILED', 'CANCELLED'))
);

CREATE INDEX ix_jobs_active ON jobs (id) WHERE state IN ('ADMITTED', 'CHECKPOINTING', 'QUEUED',
    'RUNNING', 'STALLED', 'STARTING');

CREATE INDEX ix_jobs_fingerprint ON jobs (tenant_id, fingerprint, id);

CREATE INDEX ix_jobs_listing ON jobs (tenant_id, project_id, id);

CREATE TABLE job_metrics (
    job_id UUID NOT NULL,
    step BIGINT NOT NULL,
    name TEXT NOT NULL,
    tenant_id UUID NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT pk_job_metrics PRIMARY KEY (job_id, step, name),
    CONSTRAINT fk_job_metrics_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE TABLE job_logs (
    job_id UUID NOT NULL,
    seq BIGINT NOT NULL,
    tenant_id UUID NOT NULL,
    text TEXT NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT pk_job_logs PRIMARY KEY (job_id, seq),
    CONSTRAINT fk_job_logs_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE TABLE endpoints (
    id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    project_id UUID NOT NULL,
    name TEXT NOT NULL,
    model_version_id UUID NOT NULL,
    model_reference TEXT NOT NULL,
    desired TEXT NOT NULL,
    state TEXT NOT NULL,
    base_digest TEXT NOT NULL,
    app_name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    config JSONB NOT NULL,
    config_generation BIGINT NOT NULL,
    last_error TEXT,
    progress JSONB NOT NULL,
    created_by TEXT NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_endpoints PRIMARY KEY (id),
    CONSTRAINT ck_endpoints_desired CHECK (desired IN ('running', 'stopped', 'deleted')),
    CONSTRAINT ck_endpoints_state CHECK (state IN ('CREATED', 'CONFIGURED', 'PENDING',
        'VALIDATING', 'TRANSFERRING', 'DEPLOYING', 'VERIFYING', 'RUNNING', 'DEGRADED', 'UPDATING',
        'FAILED', 'STOPPING', 'STOPPED', 'DELETING', 'DELETED'))
);

CREATE INDEX ix_endpoints_listing ON endpoints (tenant_id, project_id, id);

CREATE INDEX ix_endpoints_live ON endpoints (id) WHERE state <> 'DELETED';

CREATE UNIQUE INDEX uq_endpoints_model ON endpoints (tenant_id, model_version_id) WHERE state <>
    'DELETED';

CREATE UNIQUE INDEX uq_endpoints_name ON endpoints (tenant_id, project_id, name) WHERE state <>
    'DELETED';

-- What is written stays written.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = '23001';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON alias_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON alias_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON dataset_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON version_files
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- A version's stage moves; everything else is what was trained, checked and signed for.
CREATE FUNCTION keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    mutable text[] := ARRAY['stage', 'tombstoned_at', 'tombstoned_by', 'tombstone_reason'];
BEGIN
    IF to_jsonb(NEW) - mutable IS DISTINCT FROM to_jsonb(OLD) - mutable THEN
        RAISE EXCEPTION 'a model version is immutable except for its stage'
            USING ERRCODE = '23001';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER immutable BEFORE UPDATE ON model_versions
    FOR EACH ROW EXECUTE FUNCTION keep_version();

CREATE TRIGGER no_delete BEFORE DELETE ON model_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
