CREATE TABLE diloco_rounds (
    job_id UUID NOT NULL,
    round BIGINT NOT NULL,
    tenant_id UUID NOT NULL,
    fragment INTEGER NOT NULL,
    digest TEXT NOT NULL,
    ledger JSONB NOT NULL,
    members JSONB NOT NULL,
    aborts INTEGER NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    loss DOUBLE PRECISION,
    eval_loss DOUBLE PRECISION,
    checkpoint JSONB,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_diloco_rounds PRIMARY KEY (job_id, round)
);

CREATE TABLE diloco_events (
    job_id UUID NOT NULL,
    seq BIGINT NOT NULL,
    tenant_id UUID NOT NULL,
    round BIGINT NOT NULL,
    member TEXT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT pk_diloco_events PRIMARY KEY (job_id, seq),
    CONSTRAINT ck_diloco_events_kind CHECK (kind IN ('joined', 'healed', 'left', 'died', 'silent', 'stalled', 'late', 'corrupt', 'aborted', 'resumed'))
);
