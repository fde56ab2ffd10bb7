-- Version 4: tables without a key, which need what the pipeline's connector may not send (transaction metadata).
ALTER TABLE deltasync.pipeline ADD COLUMN keyless boolean NOT NULL DEFAULT false;
