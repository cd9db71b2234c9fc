-- Run by the server's administrator at every start; repeats change nothing.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'foundry_migrate', 'foundry_app', 'foundry_gateway', 'foundry_audit_reader'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
    END LOOP;
    ALTER DATABASE foundry OWNER TO foundry_migrate;
    ALTER SCHEMA public OWNER TO foundry_migrate;
    -- Homes of before 0008: there the administrator owns what the migrations made. Sequences of
    -- columns follow their tables.
    FOR name IN
        SELECT format('ALTER TABLE %s OWNER TO foundry_migrate', oid::regclass)
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
          AND relowner = current_user::regrole
          AND relkind IN ('r', 'p', 'v', 'm')
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO foundry_migrate', oid::regprocedure)
        FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
          AND proowner = current_user::regrole
    LOOP
        EXECUTE name;
    END LOOP;
END $$
