-- What runs on the source. Setup replaces all of it on every run.
-- Each function pins its search_path, so no object of a user's is ever called by ours.

-- True where every UPDATE and DELETE of the table (and of its partitions) names its row: without that,
-- publishing the table would make them fail in the application.
CREATE OR REPLACE FUNCTION deltasync.identified(relation oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT coalesce(bool_and(
           c.relkind <> 'f' AND (
             c.relreplident = 'f'
             OR EXISTS (SELECT FROM pg_index i
                         WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                                   WHEN 'i' THEN i.indisreplident END))), false)
    FROM pg_class c
   WHERE c.oid = $1 OR c.oid IN (SELECT p.relid FROM pg_partition_tree($1) p WHERE p.isleaf)
$body$;

-- The columns of a table of this description that cannot be carried exactly, skipped ones apart, and why.
CREATE OR REPLACE FUNCTION deltasync.column_problems(description jsonb)
RETURNS TABLE (name text, key boolean, problem text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  WITH with_key AS (
    SELECT c ->> 'name' AS name,
           c ->> 'sql_type' AS sql_type,
           c ? 'generated' AS generated,
           c ? 'skipped' AS skipped,
           c ? 'base' AS is_domain,
           carrier ? 'element' AS is_array,
           c ? 'extension' AS of_extension,
           coalesce($1 -> 'primary_key' ? (c ->> 'name'), false) AS key,
           coalesce((c ->> 'collation_exact')::boolean, true) AS collation_exact,
           (c ->> 'kind' IN ('c', 'r', 'm') OR coalesce(carrier #>> '{element,schema}', 'pg_catalog') <> 'pg_catalog')
             AND jsonb_path_exists($1, '$.types[*] ? (@.extension == "citext")') AS may_hold_citext,
           CASE WHEN carrier #>> '{type,schema}' = 'pg_catalog'
                THEN CASE WHEN carrier #>> '{type,name}' <> 'bit' OR strpos(carrier ->> 'sql_type', '(') > 0
                          THEN carrier #>> '{type,name}' END
                WHEN c ? 'extension' THEN (c ->> 'extension') || ':' || (carrier #>> '{type,name}')
                ELSE CASE c ->> 'kind' WHEN 'e' THEN 'enum' WHEN 'c' THEN 'composite'
                                       WHEN 'r' THEN 'range' WHEN 'm' THEN 'multirange' END
           END AS type_key
      FROM jsonb_array_elements($1 -> 'columns') c
     CROSS JOIN LATERAL (SELECT coalesce(c -> 'base', c)) AS one (carrier)
  ), col AS (
    SELECT k.*,
           coalesce(t.as_key, a.as_key) AND may_hold_citext IS NOT TRUE AS as_key,
           CASE WHEN NOT is_domain OR coalesce(t.needs, a.needs) = 'raw' AND is_array THEN coalesce(t.needs, a.needs)
                WHEN is_array THEN 'full'
                WHEN t.needs = '' OR NOT of_extension THEN t.needs
           END AS needs
      FROM with_key k
      LEFT JOIN deltasync.carried_type t ON t.name = k.type_key
      LEFT JOIN deltasync.carried_type a ON a.name = 'array' AND k.is_array
  ), told AS (
    SELECT name, key,
           format('column %s: ', name)
              || CASE WHEN skipped THEN NULL
                      WHEN generated AND key THEN 'a generated column is not carried as a key'
                      WHEN generated THEN NULL
                      WHEN needs IS NULL THEN format('the type %s is not carried exactly', sql_type)
                      WHEN needs = 'raw' AND NOT has_raw_text
                      THEN format('the type %s needs the raw-text converter: DELTASYNC_CONNECT_RAW_TEXT', sql_type)
                      WHEN needs = 'full' AND NOT has_raw_text AND coalesce($1 ->> 'replica_identity', 'd') <> 'f'
                      THEN format('the type %s needs REPLICA IDENTITY FULL, or the raw-text converter: '
                                  'DELTASYNC_CONNECT_RAW_TEXT', sql_type)
                      WHEN key AND NOT as_key
                      THEN format('which values of %s are equal depends on the locale: not as a key', sql_type)
                      WHEN key AND NOT collation_exact THEN 'its collation holds different texts for equal in the key'
                 END AS text
      FROM col
     CROSS JOIN (SELECT EXISTS (SELECT FROM deltasync.captured_schema s
                                  JOIN deltasync.pipeline p ON p.pipeline = s.pipeline
                                 WHERE s.name = $1 ->> 'schema' AND p.raw_text)) AS connector (has_raw_text)
  )
  SELECT name, key, text FROM told WHERE text IS NOT NULL
$body$;

-- Why a table of this description cannot be carried exactly, or null. deltasync.postgres.types.unsupported
-- decides alike before setup; a test holds the two together.
CREATE OR REPLACE FUNCTION deltasync.unsupported(description jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  WITH col AS (
    SELECT c ->> 'name' AS name, c ? 'generated' OR c ? 'skipped' AS stays
      FROM jsonb_array_elements($1 -> 'columns') c
  ), problem (place, text) AS (
    SELECT 1, format('the column names %s differ only by case', string_agg(name, ', ' ORDER BY name COLLATE "C"))
      FROM col GROUP BY lower(name) HAVING count(*) > 1
    UNION ALL
    SELECT 2, 'it has no column whose value travels' FROM col HAVING count(*) FILTER (WHERE NOT stays) = 0
    UNION ALL
    SELECT 3, problem FROM deltasync.column_problems($1)
    UNION ALL
    SELECT 4, format('the type %s.%s ', d ->> 'schema', d ->> 'name')
              || CASE d ->> 'kind' WHEN 't' THEN 'is the row type of a table'
                                   WHEN 'b' THEN 'belongs to no extension and is made by functions' END
      FROM jsonb_array_elements(coalesce($1 -> 'types', '[]')) d
  )
  SELECT string_agg(text, '; ' ORDER BY place, text COLLATE "C") FROM problem
$body$;

-- The description of a table; where its settings say so, columns that cannot be carried exactly are marked as skipped,
-- keys apart. deltasync.postgres.types.skipping marks alike before setup.
CREATE OR REPLACE FUNCTION deltasync.skipping(description jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT CASE WHEN EXISTS (SELECT FROM deltasync.skipping_table s
                            WHERE s.schema_name = $1 ->> 'schema' AND s.table_name = $1 ->> 'name')
              THEN (SELECT jsonb_set($1, '{columns}', jsonb_agg(
                             CASE WHEN p.name IS NULL THEN c.value ELSE c.value || '{"skipped": true}' END
                             ORDER BY c.ordinality))
                      FROM jsonb_array_elements($1 -> 'columns') WITH ORDINALITY c
                      LEFT JOIN deltasync.column_problems($1) p ON p.name = c.value ->> 'name' AND NOT p.key)
              ELSE $1 END
$body$;

-- Why a table is not to be captured, or null. Only names, never values.
CREATE OR REPLACE FUNCTION deltasync.refusal(relation oid, description jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT CASE
           WHEN EXISTS (SELECT FROM deltasync.excluded_table e
                         WHERE e.schema_name = n.nspname AND e.table_name = c.relname) THEN 'excluded'
           WHEN c.relpersistence = 'u' THEN 'unlogged'
           WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid)
             THEN 'other tables inherit from it'
           WHEN NOT $2 ? 'primary_key' AND c.relreplident <> 'f'
             THEN 'no primary key: add one, or set REPLICA IDENTITY FULL, or USING INDEX a unique index of NOT NULL columns'
           WHEN NOT $2 ? 'primary_key'
                AND NOT EXISTS (SELECT FROM deltasync.captured_schema s
                                  JOIN deltasync.pipeline p ON p.pipeline = s.pipeline
                                 WHERE s.name = n.nspname AND p.keyless)
             THEN 'no primary key: add one, or set DELTASYNC_SOURCE_KEYLESS'
           WHEN NOT $2 ? 'primary_key'
                AND EXISTS (SELECT FROM pg_partition_tree(c.oid) l JOIN pg_class lc ON lc.oid = l.relid
                             WHERE l.isleaf AND lc.relreplident <> 'f')
             THEN 'no primary key, and a partition without REPLICA IDENTITY FULL'
           WHEN c.relreplident = 'i' AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
             THEN 'REPLICA IDENTITY is an index beside the primary key'
           WHEN c.relreplident = 'i' AND c.relkind = 'p'
             THEN 'REPLICA IDENTITY is an index of a partitioned table: add a primary key'
           WHEN NOT deltasync.identified(c.oid)
             THEN 'the primary key is deferrable or invalid, REPLICA IDENTITY is NOTHING, or a partition is foreign'
           WHEN c.relname ~ '["[:cntrl:]]' THEN 'its name holds a quote or a control character'
           WHEN EXISTS (SELECT FROM pg_class o
                         WHERE o.relnamespace = c.relnamespace AND o.oid <> c.oid
                           AND o.relkind IN ('r', 'p') AND NOT o.relispartition
                           AND regexp_replace(o.relname, '[^A-Za-z0-9._-]', '_', 'g')
                             = regexp_replace(c.relname, '[^A-Za-z0-9._-]', '_', 'g'))
             THEN 'another table has the same topic name'
           ELSE deltasync.unsupported($2)
         END
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.oid = $1
$body$;

-- The pipeline's publication of this table, or null.
CREATE OR REPLACE FUNCTION deltasync.publication_of(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT p.pubname
    FROM pg_publication_rel r
    JOIN pg_publication p ON p.oid = r.prpubid
    JOIN deltasync.pipeline d ON d.publication = p.pubname
   WHERE r.prrelid = $1
   LIMIT 1
$body$;

CREATE OR REPLACE FUNCTION deltasync.unpublish(relation oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  publication text := deltasync.publication_of(relation);
BEGIN
  IF publication IS NOT NULL THEN
    EXECUTE format('ALTER PUBLICATION %I DROP TABLE ONLY %s', publication, relation::regclass);
  END IF;
END
$body$;

CREATE OR REPLACE FUNCTION deltasync.holds_rows(relation oid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  answer boolean;
BEGIN
  EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation::regclass) INTO answer;
  RETURN answer;
END
$body$;

-- Log that the name under which the relation was known is gone, unless another table has taken it.
CREATE OR REPLACE FUNCTION deltasync.forget(relation oid, tag text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  known deltasync.known_table;
BEGIN
  DELETE FROM deltasync.known_table k WHERE k.relation = forget.relation RETURNING k.* INTO known;
  IF known.relation IS NOT NULL AND NOT EXISTS (
       SELECT FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN deltasync.captured_schema s ON s.name = n.nspname
        WHERE n.nspname = known.schema_name AND c.relname = known.table_name AND NOT c.relispartition) THEN
    INSERT INTO deltasync.schema_log (event, tag, schema_name, table_name, captured)
    VALUES ('drop', forget.tag, known.schema_name, known.table_name, false);
  END IF;
END
$body$;

-- Bring one table up to date: publish it if it may be captured, and log its description if anything changed.
-- `owed` says that rows came to it past the publication.
CREATE OR REPLACE FUNCTION deltasync.log_table(relation oid, event text, tag text, owed boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  it record;
  newest deltasync.schema_log;
  reason text;
  published boolean;
  complete boolean;
  former deltasync.schema_log;
BEGIN
  SELECT n.nspname AS schema_name, c.relname AS table_name, c.relispartition, p.publication, p.slot, p.reader,
         k.relation IS NOT NULL AS known, k.schema_name AS former_schema, k.table_name AS former_table,
         EXISTS (SELECT FROM deltasync.captured_schema f
                  WHERE f.name = k.schema_name AND f.pipeline = s.pipeline)
           AND deltasync.publication_of(c.oid) = p.publication AS travelled,
         (k.schema_name, k.table_name) IS DISTINCT FROM (n.nspname::text, c.relname::text) AS renamed,
         deltasync.skipping(deltasync.describe(c.oid)) AS description
    INTO it
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN deltasync.known_table k ON k.relation = c.oid
    LEFT JOIN deltasync.captured_schema s ON s.name = n.nspname
    LEFT JOIN deltasync.pipeline p ON p.pipeline = s.pipeline
   WHERE c.oid = log_table.relation AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't';
  IF NOT FOUND OR it.publication IS NULL AND NOT it.known THEN
    RETURN;
  END IF;
  IF it.known AND it.renamed THEN
    IF it.travelled AND NOT it.relispartition THEN
      SELECT l.* INTO former FROM deltasync.schema_log l
       WHERE l.schema_name = it.former_schema AND l.table_name = it.former_table AND l.event <> 'hole'
       ORDER BY l.id DESC LIMIT 1;
    END IF;
    PERFORM deltasync.forget(relation, tag);
    owed := former.captured IS NOT TRUE;
  END IF;
  IF it.publication IS NULL OR it.relispartition THEN
    -- It left the captured schemas, or its rows now travel under the name of its partitioned table.
    IF it.known THEN
      PERFORM deltasync.forget(relation, tag);
      PERFORM deltasync.unpublish(relation);
    END IF;
    RETURN;
  END IF;

  SELECT l.* INTO newest FROM deltasync.schema_log l
   WHERE l.schema_name = it.schema_name AND l.table_name = it.table_name ORDER BY l.id DESC LIMIT 1;
  -- What of a column was not carried until now, no later record makes up for.
  owed := owed OR EXISTS (
    SELECT FROM jsonb_array_elements(newest.description -> 'columns') o
      JOIN jsonb_array_elements(it.description -> 'columns') c ON c ->> 'name' = o ->> 'name'
     WHERE o ? 'skipped' AND NOT c ? 'skipped');
  reason := deltasync.refusal(relation, it.description);
  published := deltasync.publication_of(relation) IS NOT NULL;
  IF published AND (reason = 'excluded' OR NOT deltasync.identified(relation)) THEN
    PERFORM deltasync.unpublish(relation);
    published := false;
  ELSIF NOT published AND reason IS NULL THEN
    EXECUTE format('ALTER PUBLICATION %I ADD TABLE ONLY %s', it.publication, relation::regclass);
    published := true;
    owed := true;
  END IF;
  IF published THEN
    IF NOT has_table_privilege(it.reader, relation, 'SELECT') THEN
      EXECUTE format('GRANT SELECT ON %s TO %I', relation::regclass, it.reader);
    END IF;
    -- Before the slot exists nothing is owed: the connector's snapshot is still to come.
    complete := CASE WHEN former.captured THEN former.complete
                     WHEN owed AND EXISTS (SELECT FROM pg_replication_slots r WHERE r.slot_name = it.slot)
                     THEN NOT deltasync.holds_rows(relation)
                     ELSE coalesce(newest.complete, true) END;
  END IF;

  IF (newest.captured, newest.complete, newest.reason, newest.description)
     IS DISTINCT FROM (published, complete, reason, it.description) OR former.captured THEN
    INSERT INTO deltasync.schema_log (event, tag, schema_name, table_name, captured, complete, reason, description,
                                      former_schema, former_table)
    VALUES (log_table.event, log_table.tag, it.schema_name, it.table_name, published, complete, reason,
            it.description, CASE WHEN former.captured THEN former.schema_name END,
            CASE WHEN former.captured THEN former.table_name END);
  END IF;
  INSERT INTO deltasync.known_table VALUES (relation, it.schema_name, it.table_name)
  ON CONFLICT ON CONSTRAINT known_table_pkey
  DO UPDATE SET schema_name = excluded.schema_name, table_name = excluded.table_name
   WHERE (known_table.schema_name, known_table.table_name) <> (excluded.schema_name, excluded.table_name);
END
$body$;

-- Note which partitions a captured table has; true where one with rows has joined it past the publication, or has left
-- it, and no delete tells of its rows.
CREATE OR REPLACE FUNCTION deltasync.regrouped(root oid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_column
DECLARE
  leaf record;
  found_rows boolean := false;
BEGIN
  IF NOT EXISTS (SELECT FROM deltasync.known_table k WHERE k.relation = regrouped.root) THEN
    RETURN false;
  END IF;
  FOR leaf IN
    SELECT c.oid AS relation, true AS joins
      FROM pg_partition_tree(regrouped.root) t JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r'
     WHERE NOT EXISTS (SELECT FROM deltasync.known_leaf l WHERE l.relation = c.oid AND l.root = regrouped.root)
    UNION ALL
    SELECT c.oid, false
      FROM deltasync.known_leaf l JOIN pg_class c ON c.oid = l.relation
     WHERE l.root = regrouped.root
       AND NOT EXISTS (SELECT FROM pg_partition_tree(regrouped.root) t WHERE t.relid = c.oid)
  LOOP
    found_rows := found_rows OR deltasync.holds_rows(leaf.relation);
    DELETE FROM deltasync.known_leaf l WHERE l.relation = leaf.relation;
    IF leaf.joins THEN
      INSERT INTO deltasync.known_leaf (relation, root) VALUES (leaf.relation, regrouped.root);
    END IF;
  END LOOP;
  RETURN found_rows;
END
$body$;

-- Log that a captured table is to be read again, if its slot exists: before that, the connector's snapshot is to come.
CREATE OR REPLACE FUNCTION deltasync.owe(relation oid, tag text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
  INSERT INTO deltasync.schema_log (event, tag, schema_name, table_name, captured, complete, reason, description)
  SELECT 'ddl', $2, newest.schema_name, newest.table_name, true, false, newest.reason, newest.description
    FROM deltasync.known_table k
    JOIN deltasync.captured_schema s ON s.name = k.schema_name
    JOIN deltasync.pipeline p ON p.pipeline = s.pipeline
    JOIN pg_replication_slots r ON r.slot_name = p.slot
   CROSS JOIN LATERAL (SELECT l.* FROM deltasync.schema_log l
                        WHERE l.schema_name = k.schema_name AND l.table_name = k.table_name
                        ORDER BY l.id DESC LIMIT 1) newest
   WHERE k.relation = $1 AND newest.captured AND newest.complete
$body$;

-- Bring every table of a pipeline's schemas up to date; returns each with its newest entry in the log.
CREATE OR REPLACE FUNCTION deltasync.announce(pipeline text)
RETURNS TABLE (schema_name text, table_name text, captured boolean, complete boolean, reason text, changed boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_column
DECLARE
  table_oid oid;
  before bigint := (SELECT coalesce(max(id), 0) FROM deltasync.schema_log);
BEGIN
  PERFORM deltasync.forget(k.relation, 'SETUP') FROM deltasync.known_table k
    WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = k.relation AND c.relkind IN ('r', 'p'));
  FOR table_oid IN
    SELECT c.oid
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN deltasync.captured_schema s ON s.name = n.nspname
      LEFT JOIN deltasync.known_table k ON k.relation = c.oid
     WHERE c.relkind IN ('r', 'p')
       AND (k.relation IS NOT NULL OR s.pipeline = announce.pipeline AND NOT c.relispartition)
     ORDER BY n.nspname, c.relname
  LOOP
    PERFORM deltasync.log_table(table_oid, 'announce', 'SETUP');
    PERFORM deltasync.regrouped(table_oid);
  END LOOP;
  RETURN QUERY
    SELECT DISTINCT ON (l.schema_name, l.table_name)
           l.schema_name, l.table_name, l.captured, l.complete, l.reason, l.id > before
      FROM deltasync.schema_log l
      JOIN deltasync.captured_schema s ON s.name = l.schema_name
     WHERE s.pipeline = announce.pipeline
     ORDER BY l.schema_name, l.table_name, l.id DESC;
END
$body$;

-- Record that an event trigger failed: by SQLSTATE alone, since a message may hold values.
CREATE OR REPLACE FUNCTION deltasync.log_hole(tag text, relation oid, code text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  RAISE WARNING 'deltasync could not log this % (SQLSTATE %)', tag, code
    USING HINT = 'The next heartbeat tries again; `deltasync source setup` shows why it fails.';
  INSERT INTO deltasync.schema_log (event, tag, schema_name, table_name, reason)
  SELECT 'hole', log_hole.tag, n.nspname, c.relname, code
    FROM (SELECT) AS always
    LEFT JOIN pg_class c ON c.oid = log_hole.relation
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'deltasync could not even log the failure (SQLSTATE %)', SQLSTATE;
END
$body$;

-- The tables that the running DDL touches: named by it, using a type that it changed or that is made of one, in
-- a schema that it renamed, or attached to or detached from a partitioned table that it names (it reports only that one).
CREATE OR REPLACE FUNCTION deltasync.touched() RETURNS SETOF oid
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
  WITH RECURSIVE command AS MATERIALIZED (
    SELECT classid, objid FROM pg_event_trigger_ddl_commands() WHERE NOT in_extension
  ), changed (type) AS (
    SELECT t.oid FROM command JOIN pg_type t
        ON command.classid = 'pg_type'::regclass AND t.oid = command.objid
        OR command.classid = 'pg_class'::regclass AND t.typrelid = command.objid AND t.typtype = 'c'
     UNION
    SELECT made.type
      FROM changed
     CROSS JOIN LATERAL (
       SELECT t.oid FROM pg_type t WHERE t.typelem = changed.type OR t.typbasetype = changed.type
        UNION ALL SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                   WHERE c.relkind = 'c' AND a.atttypid = changed.type AND NOT a.attisdropped
        UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngsubtype = changed.type
        UNION ALL SELECT r.rngmultitypid FROM pg_range r WHERE r.rngtypid = changed.type) AS made (type)
  )
  SELECT objid FROM command WHERE classid = 'pg_class'::regclass
  UNION
  SELECT a.attrelid FROM changed JOIN pg_attribute a ON a.atttypid = changed.type AND NOT a.attisdropped
  UNION
  SELECT c.oid FROM command JOIN pg_class c ON c.relnamespace = command.objid
   WHERE command.classid = 'pg_namespace'::regclass
  UNION
  SELECT c.oid
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN deltasync.captured_schema s ON s.name = n.nspname
    LEFT JOIN deltasync.known_table k ON k.relation = c.oid
   WHERE c.relkind IN ('r', 'p') AND c.relispartition = (k.relation IS NOT NULL)
     AND EXISTS (SELECT FROM command JOIN pg_class p ON p.oid = command.objid
                  WHERE command.classid = 'pg_class'::regclass AND p.relkind = 'p')
$body$;

-- DDL must never fail because of us, nor wait long for another transaction that holds the publication.
CREATE OR REPLACE FUNCTION deltasync.on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $body$
DECLARE
  table_oid oid;
BEGIN
  FOR table_oid IN SELECT * FROM deltasync.touched() LOOP
    BEGIN
      PERFORM deltasync.log_table(table_oid, 'ddl', tg_tag);
      IF deltasync.regrouped(pg_partition_root(table_oid)) THEN
        PERFORM deltasync.owe(pg_partition_root(table_oid), tg_tag);
      END IF;
    EXCEPTION WHEN OTHERS THEN
      PERFORM deltasync.log_hole(tg_tag, table_oid, SQLSTATE);
    END;
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  BEGIN
    PERFORM deltasync.log_hole(tg_tag, NULL, SQLSTATE);
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'deltasync is damaged and logged nothing (SQLSTATE %)', SQLSTATE;
  END;
END
$body$;

-- Tables that are gone, and columns and keys that went with a type, an index or another object.
CREATE OR REPLACE FUNCTION deltasync.on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $body$
DECLARE
  dropped record;
BEGIN
  FOR dropped IN
    SELECT DISTINCT o.objid, o.object_type
      FROM pg_event_trigger_dropped_objects() o
      JOIN deltasync.known_table k ON k.relation = o.objid
     WHERE o.classid = 'pg_class'::regclass AND o.object_type IN ('table', 'table column')
    UNION
    -- A dropped index does not tell whose it was: tables that were known by theirs and have none any more.
    SELECT c.oid, 'key'
      FROM deltasync.known_table k
      JOIN pg_class c ON c.oid = k.relation AND c.relreplident = 'i' AND NOT deltasync.identified(c.oid)
     WHERE EXISTS (SELECT FROM pg_event_trigger_dropped_objects() o WHERE o.object_type = 'index')
    UNION
    -- With a partition its rows go, and no delete tells of them. It cannot be asked any more whether it had some.
    SELECT l.root, 'partition'
      FROM deltasync.known_leaf l
      JOIN pg_event_trigger_dropped_objects() o ON o.classid = 'pg_class'::regclass AND o.objid = l.relation
      JOIN pg_class c ON c.oid = l.root
     WHERE o.object_type = 'table'
  LOOP
    BEGIN
      IF dropped.object_type = 'table' THEN
        PERFORM deltasync.forget(dropped.objid, tg_tag);
      ELSIF dropped.object_type = 'partition' THEN
        PERFORM deltasync.owe(dropped.objid, tg_tag);
        DELETE FROM deltasync.known_leaf l WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.relation);
      ELSE
        PERFORM deltasync.log_table(dropped.objid, 'ddl', tg_tag);
      END IF;
    EXCEPTION WHEN OTHERS THEN
      PERFORM deltasync.log_hole(tg_tag, dropped.objid, SQLSTATE);
    END;
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  BEGIN
    PERFORM deltasync.log_hole(tg_tag, NULL, SQLSTATE);
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'deltasync is damaged and logged nothing (SQLSTATE %)', SQLSTATE;
  END;
END
$body$;

-- Try again what a trigger could not do, mostly for a lock that is free by now. What still fails stays a hole.
CREATE OR REPLACE FUNCTION deltasync.fill_holes() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $body$
DECLARE
  table_oid oid;
BEGIN
  FOR table_oid IN
    SELECT DISTINCT c.oid
      FROM deltasync.schema_log h
      JOIN pg_namespace n ON n.nspname = h.schema_name
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = h.table_name
     WHERE h.event = 'hole'
       AND NOT EXISTS (SELECT FROM deltasync.schema_log newer
                        WHERE newer.schema_name = h.schema_name AND newer.table_name = h.table_name
                          AND newer.id > h.id)
  LOOP
    BEGIN
      PERFORM deltasync.log_table(table_oid, 'ddl', 'HEARTBEAT');
    EXCEPTION WHEN OTHERS THEN
      NULL;
    END;
  END LOOP;
END
$body$;

-- The connector's heartbeat: what it writes travels like any row, so the replica learns what Connect's RUNNING
-- does not tell. Once an hour it forgets what the log holds beyond 30 days and a newer entry supersedes, and Debezium's
-- marks, which are read from the source's log. The digest leaves their table out, since a pipeline may not have it yet.
CREATE OR REPLACE FUNCTION deltasync.beat(pipeline text, publication text, slot text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
  SELECT deltasync.fill_holes();
  DELETE FROM deltasync.schema_log l
   WHERE date_trunc('hour', now()) > (SELECT c.beat_at FROM deltasync.canary c WHERE c.pipeline = $1)
     AND l.logged_at < now() - interval '30 days'
     AND (l.event IN ('drop', 'hole')
          OR EXISTS (SELECT FROM deltasync.schema_log newer
                      WHERE newer.schema_name = l.schema_name AND newer.table_name = l.table_name
                        AND newer.id > l.id AND newer.event <> 'hole'));
  DELETE FROM deltasync.signal
   WHERE date_trunc('hour', now()) > (SELECT c.beat_at FROM deltasync.canary c WHERE c.pipeline = $1)
     AND id ~ '-(open|close)$';
  -- The mark is set behind the snapshot that tells what is over, so that all of that is before it.
  UPDATE deltasync.pipeline p
     SET settled_xid = p.mark_xid, mark_xid = pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
         mark_lsn = pg_current_wal_insert_lsn()
    FROM pg_replication_slots s
   WHERE p.pipeline = $1 AND s.slot_name = $3 AND (p.mark_lsn IS NULL OR s.confirmed_flush_lsn >= p.mark_lsn);
  INSERT INTO deltasync.canary AS c (pipeline, beat, beat_at, publication_digest, publication_tables,
                                     slot_wal_status, system_identifier, timeline, settled_xid)
  SELECT $1, 1, clock_timestamp(), md5(coalesce(string_agg(t.name, ',' ORDER BY t.name COLLATE "C"), '')),
         count(t.name),
         (SELECT s.wal_status FROM pg_replication_slots s WHERE s.slot_name = $3),
         (SELECT system_identifier::text FROM pg_control_system()),
         ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int,
         (SELECT d.settled_xid FROM deltasync.pipeline d WHERE d.pipeline = $1)
    FROM (SELECT quote_ident(p.schemaname) || '.' || quote_ident(p.tablename) AS name
            FROM pg_publication_tables p
           WHERE p.pubname = $2 AND (p.schemaname, p.tablename) <> ('deltasync', 'signal')) t
  ON CONFLICT (pipeline) DO UPDATE
     SET beat = c.beat + 1, beat_at = excluded.beat_at, publication_digest = excluded.publication_digest,
         publication_tables = excluded.publication_tables, slot_wal_status = excluded.slot_wal_status,
         system_identifier = excluded.system_identifier, timeline = excluded.timeline,
         settled_xid = excluded.settled_xid
  RETURNING c.beat;
$body$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA deltasync FROM PUBLIC;
