-- Version 5: what is asked of the connector (`deltasync snapshot`), and its marks around what it reads. Debezium takes
-- these three columns, no more, from the log. Each publication has its own pipeline's signals.
CREATE TABLE deltasync.signal (
  id text PRIMARY KEY,
  type text NOT NULL,
  data text
);

-- Which transactions are in Kafka, all of them: those below settled_xid. Those below mark_xid are, too, once
-- the slot is confirmed behind mark_lsn, the log's end when they were over.
ALTER TABLE deltasync.pipeline
  ADD COLUMN mark_xid bigint, ADD COLUMN mark_lsn pg_lsn, ADD COLUMN settled_xid bigint;
ALTER TABLE deltasync.canary ADD COLUMN settled_xid bigint;
-- The transaction of an entry, and the name that its table had before, under which it was captured.
ALTER TABLE deltasync.schema_log ADD COLUMN xid bigint, ADD COLUMN former_schema text, ADD COLUMN former_table text;
ALTER TABLE deltasync.schema_log ALTER COLUMN xid SET DEFAULT pg_current_xact_id()::text::bigint;
-- The partitions of each captured table whose rows travel as its own: those that join it with rows, or leave it, are told.
CREATE TABLE deltasync.known_leaf (
  relation oid PRIMARY KEY,
  root oid NOT NULL
);
