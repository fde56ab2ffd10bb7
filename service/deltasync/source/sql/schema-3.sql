-- Version 3: tables of which columns that cannot be carried exactly are left alone ([tables] in the settings).
CREATE TABLE deltasync.skipping_table (
  schema_name text,
  table_name text,
  pipeline text NOT NULL REFERENCES deltasync.pipeline,
  PRIMARY KEY (schema_name, table_name)
);
