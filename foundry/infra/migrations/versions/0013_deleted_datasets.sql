-- Versions of datasets can be deleted: the row stays, its objects go.
ALTER TABLE dataset_versions
    ADD COLUMN deleted_at timestamptz,
    ADD COLUMN deleted_by TEXT,
    ADD COLUMN delete_reason TEXT,
    ADD COLUMN collected_at timestamptz;

DROP INDEX uq_dataset_versions_digest;

CREATE UNIQUE INDEX uq_dataset_versions_digest ON dataset_versions (dataset_id, digest)
    WHERE deleted_at IS NULL;

CREATE INDEX ix_dataset_versions_live ON dataset_versions (dataset_id, number)
    WHERE deleted_at IS NULL;

CREATE INDEX ix_dataset_versions_uncollected ON dataset_versions (deleted_at)
    WHERE deleted_at IS NOT NULL AND collected_at IS NULL;

CREATE INDEX ix_model_versions_dataset_version_id ON model_versions (dataset_version_id)
    WHERE dataset_version_id IS NOT NULL;

DROP TRIGGER append_only ON dataset_versions;

-- What was trained on stays named for ever.
CREATE FUNCTION keep_dataset_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    mutable text[] := ARRAY['deleted_at', 'deleted_by', 'delete_reason', 'collected_at'];
BEGIN
    IF to_jsonb(NEW) - mutable IS DISTINCT FROM to_jsonb(OLD) - mutable
        OR (OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS DISTINCT FROM OLD.deleted_at) THEN
        RAISE EXCEPTION 'a dataset version is immutable except for its deletion'
            USING ERRCODE = '23001';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER immutable BEFORE UPDATE ON dataset_versions
    FOR EACH ROW EXECUTE FUNCTION keep_dataset_version();

CREATE TRIGGER no_delete BEFORE DELETE ON dataset_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
