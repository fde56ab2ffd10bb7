-- Version 2: types that travel only with the raw-text converter, which is a matter of the pipeline's connector.
ALTER TABLE deltasync.pipeline ADD COLUMN raw_text boolean NOT NULL DEFAULT false;
-- What a type needs: '' nothing, 'full' REPLICA IDENTITY FULL or the converter, 'raw' the converter.
ALTER TABLE deltasync.carried_type ADD COLUMN needs text NOT NULL DEFAULT '';
