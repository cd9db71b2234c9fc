-- The application writes what it owns and adds to the audit; the gateway reads and counts; readers
-- of the audit read. Only the role that runs the migrations owns anything, so that nobody else can
-- disable a trigger. A server whose administrator has not made the roles, and lets nobody else make
-- them, keeps its one role: see docs/security.md.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['foundry_app', 'foundry_gateway', 'foundry_audit_reader'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role % is missing and this role may not create it', name;
                RETURN;
            WHEN duplicate_object OR unique_violation THEN
                NULL;
        END;
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', name);
    END LOOP;

    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO foundry_app;
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO foundry_app;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public
        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO foundry_app;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO foundry_app;
    REVOKE UPDATE, DELETE ON audit_events FROM foundry_app;
    REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM foundry_app;

    GRANT SELECT ON ALL TABLES IN SCHEMA public TO foundry_gateway;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO foundry_gateway;
    GRANT INSERT, UPDATE ON endpoint_windows TO foundry_gateway;
    GRANT INSERT ON audit_events TO foundry_gateway;

    GRANT SELECT ON audit_events TO foundry_audit_reader;
END $$
