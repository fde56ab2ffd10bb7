-- Version 5: what is asked of the connector (`deltasync snapshot`), and its marks around what it reads. Debezium takes
-- these three columns, no more, from the log. Each publication has its own pipeline's signals.
CREATE TABLE deltasync.signal (
  id text PRIMARY KEY,
  type text NOT NULL,
  data text
);
