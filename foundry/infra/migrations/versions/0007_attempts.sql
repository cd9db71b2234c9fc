ALTER TABLE jobs
    ADD COLUMN priority INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN needs JSONB NOT NULL DEFAULT '{}',
    ADD COLUMN waiting_for TEXT,
    ADD COLUMN failures INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN submitted_at timestamptz,
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN phase TEXT,
    ADD COLUMN progress_at timestamptz,
    ADD COLUMN progress_allowance_s DOUBLE PRECISION,
    ADD COLUMN log_key TEXT,
    ADD COLUMN collected_at timestamptz;

ALTER TABLE jobs
    ALTER COLUMN priority DROP DEFAULT,
    ALTER COLUMN needs DROP DEFAULT,
    ALTER COLUMN failures DROP DEFAULT;

UPDATE jobs SET submitted_at = created_at WHERE submission_id IS NOT NULL;

UPDATE jobs SET cancel_requested_at = now() WHERE cancel_requested;

CREATE INDEX ix_jobs_queue ON jobs (priority DESC, id) WHERE state = 'QUEUED';

CREATE INDEX ix_jobs_uncollected ON jobs (finished_at) WHERE collected_at IS NULL;

CREATE TABLE job_checkpoints (
    id UUID NOT NULL,
    job_id UUID NOT NULL,
    tenant_id UUID NOT NULL,
    fence BIGINT NOT NULL,
    step BIGINT NOT NULL,
    object_key TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    document JSONB NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_job_checkpoints PRIMARY KEY (id),
    CONSTRAINT fk_job_checkpoints_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE INDEX ix_job_checkpoints_newest ON job_checkpoints (job_id, fence, step);

ALTER TABLE blobs DROP CONSTRAINT ck_blobs_state;

ALTER TABLE blobs ADD CONSTRAINT ck_blobs_state CHECK (state IN ('live', 'deleting', 'deleted'));

CREATE INDEX ix_blobs_unused ON blobs (created_at) WHERE state = 'deleting' OR refcount = 0;
