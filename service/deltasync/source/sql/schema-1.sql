-- What deltasync keeps on the source, version 1. A later version is a file of its own that alters this.
CREATE SCHEMA IF NOT EXISTS deltasync;

CREATE TABLE deltasync.source_version (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version int NOT NULL
);

-- One row per pipeline that captures from this database.
CREATE TABLE deltasync.pipeline (
  pipeline text PRIMARY KEY,
  publication text NOT NULL UNIQUE,
  slot text NOT NULL,
  reader text NOT NULL
);

CREATE TABLE deltasync.captured_schema (
  name text PRIMARY KEY,
  pipeline text NOT NULL REFERENCES deltasync.pipeline
);

CREATE TABLE deltasync.excluded_table (
  schema_name text,
  table_name text,
  pipeline text NOT NULL REFERENCES deltasync.pipeline,
  PRIMARY KEY (schema_name, table_name)
);

-- The types of pg_catalog that travel exactly: setup fills it from deltasync.postgres.types.
CREATE TABLE deltasync.carried_type (
  name text PRIMARY KEY,
  as_key boolean NOT NULL
);

-- The name under which a table was last logged: a rename or a drop reports only the oid.
CREATE TABLE deltasync.known_table (
  relation oid PRIMARY KEY,
  schema_name text NOT NULL,
  table_name text NOT NULL
);

CREATE TABLE deltasync.schema_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  logged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  event text NOT NULL,
  tag text NOT NULL,
  schema_name text,
  table_name text,
  captured boolean,
  complete boolean,
  reason text,
  description jsonb
);
CREATE INDEX schema_log_newest ON deltasync.schema_log (schema_name, table_name, id);
CREATE INDEX schema_log_hole ON deltasync.schema_log (id) WHERE event = 'hole';

CREATE TABLE deltasync.canary (
  pipeline text PRIMARY KEY,
  beat bigint NOT NULL,
  beat_at timestamptz NOT NULL,
  publication_digest text NOT NULL,
  publication_tables int NOT NULL,
  slot_wal_status text,
  system_identifier text NOT NULL,
  timeline int NOT NULL
);
