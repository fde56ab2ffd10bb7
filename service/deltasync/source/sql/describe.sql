-- Every table as the JSON that deltasync.table.Table reads; absent keys stand for the defaults there.
-- It needs no object of ours: deltasync.describe(oid) and postgres/catalog.py both embed this text.
-- Run with search_path = pg_catalog, so that all other types come out with their schema.
SELECT c.oid,
       n.nspname AS schema_name,
       c.relname AS table_name,
       jsonb_strip_nulls(jsonb_build_object(
         'schema', n.nspname,
         'name', c.relname,
         'kind', c.relkind,
         'persistence', c.relpersistence,
         'replica_identity', c.relreplident,
         'parent', (SELECT pn.nspname || '.' || p.relname
                      FROM pg_inherits h
                      JOIN pg_class p ON p.oid = h.inhparent
                      JOIN pg_namespace pn ON pn.oid = p.relnamespace
                     WHERE h.inhrelid = c.oid AND h.inhseqno = 1),
         'primary_key', (SELECT jsonb_agg(a.attname ORDER BY k.place)
                           FROM pg_index i
                          CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
                           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                          WHERE k.place <= i.indnkeyatts
                            AND i.indexrelid = (SELECT key.indexrelid FROM pg_index key
                                                 WHERE key.indrelid = c.oid
                                                   AND (key.indisprimary OR key.indisreplident AND c.relreplident = 'i')
                                                 ORDER BY key.indisprimary DESC LIMIT 1)),
         'columns', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                       'name', a.attname,
                       'number', a.attnum,
                       'sql_type', format_type(a.atttypid, a.atttypmod),
                       'type', jsonb_build_object('schema', tn.nspname, 'name', t.typname),
                       'missing', CASE WHEN c.relkind = 'p'
                                       THEN (SELECT (m.attmissingval::text::text[])[1]
                                               FROM pg_partition_tree(c.oid) l
                                               JOIN pg_attribute m ON m.attrelid = l.relid AND m.attname = a.attname
                                              WHERE l.isleaf AND m.atthasmissing ORDER BY l.relid LIMIT 1)
                                       WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END,
                       'base', CASE WHEN t.typtype = 'd' THEN jsonb_build_object(
                                 'name', a.attname,
                                 'sql_type', format_type(b.oid, base.modifier),
                                 'type', jsonb_build_object('schema', bn.nspname, 'name', b.typname),
                                 'element', element.name) END,
                       'kind', nullif(b.typtype, 'b'),
                       'element', CASE WHEN t.typtype <> 'd' THEN element.name END,
                       'extension', (SELECT x.extname
                                       FROM pg_depend d
                                       JOIN pg_extension x ON x.oid = d.refobjid
                                      WHERE d.classid = 'pg_type'::regclass AND d.objid = coalesce(e.oid, b.oid)
                                        AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'),
                       'not_null', nullif(a.attnotnull, false),
                       'default', pg_get_expr(d.adbin, d.adrelid),
                       'identity', nullif(a.attidentity, ''),
                       'generated', nullif(a.attgenerated, ''),
                       'collation_exact', nullif(coalesce(o.collisdeterministic, true), true)
                     ) ORDER BY a.attnum), '[]')
                       FROM pg_attribute a
                       JOIN pg_type t ON t.oid = a.atttypid
                       JOIN pg_namespace tn ON tn.oid = t.typnamespace
                      CROSS JOIN LATERAL (
                        WITH RECURSIVE down (type, kind, next, next_modifier, modifier) AS (
                          SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, a.atttypmod
                           UNION ALL
                          SELECT s.oid, s.typtype, s.typbasetype, s.typtypmod, down.next_modifier
                            FROM down JOIN pg_type s ON s.oid = down.next
                           WHERE down.kind = 'd')
                        SELECT type, modifier FROM down WHERE kind <> 'd') AS base
                       JOIN pg_type b ON b.oid = base.type
                       JOIN pg_namespace bn ON bn.oid = b.typnamespace
                       LEFT JOIN pg_type e ON e.oid = b.typelem AND e.typarray = b.oid
                       LEFT JOIN pg_namespace en ON en.oid = e.typnamespace
                      CROSS JOIN LATERAL (
                        SELECT CASE WHEN e.oid IS NOT NULL
                                    THEN jsonb_build_object('schema', en.nspname, 'name', e.typname) END) AS element (name)
                       LEFT JOIN pg_collation o ON o.oid = a.attcollation
                       LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
         'types', (WITH RECURSIVE used (type, depth) AS (
                     SELECT a.atttypid, 0 FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                      UNION
                     SELECT part.type, used.depth + 1
                       FROM used
                       JOIN pg_type t ON t.oid = used.type
                       JOIN pg_namespace tn ON tn.oid = t.typnamespace AND tn.nspname <> 'pg_catalog'
                      CROSS JOIN LATERAL (
                        SELECT t.typelem WHERE t.typelem <> 0
                         UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
                         UNION ALL SELECT f.atttypid FROM pg_attribute f
                                    WHERE f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
                         UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
                         UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid) AS part (type)
                      WHERE NOT EXISTS (SELECT FROM pg_depend d
                                         WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid
                                           AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'))
                   SELECT jsonb_agg(jsonb_build_object(
                            'schema', tn.nspname,
                            'name', t.typname,
                            'kind', CASE WHEN x.extname IS NOT NULL THEN 'x'
                                         WHEN t.typtype = 'c' AND tc.relkind <> 'c' THEN 't'
                                         ELSE t.typtype END,
                            'extension', x.extname,
                            'labels', (SELECT jsonb_agg(l.enumlabel ORDER BY l.enumsortorder)
                                         FROM pg_enum l WHERE l.enumtypid = t.oid),
                            'attributes', CASE WHEN x.extname IS NULL THEN (
                              SELECT jsonb_agg(jsonb_build_object(
                                       'name', part.name,
                                       'sql_type', format_type(part.type, part.modifier),
                                       'type', jsonb_build_object('schema', pn.nspname, 'name', p.typname),
                                       'element', CASE WHEN e.oid IS NOT NULL THEN
                                         jsonb_build_object('schema', en.nspname, 'name', e.typname) END
                                     ) ORDER BY part.place)
                                FROM (SELECT f.attnum, f.attname, f.atttypid, f.atttypmod FROM pg_attribute f
                                       WHERE f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
                                       UNION ALL SELECT 1, 'value', t.typbasetype, t.typtypmod WHERE t.typtype = 'd'
                                       UNION ALL SELECT 1, 'subtype', r.rngsubtype, -1 FROM pg_range r
                                                  WHERE r.rngtypid = t.oid) AS part (place, name, type, modifier)
                                JOIN pg_type p ON p.oid = part.type
                                JOIN pg_namespace pn ON pn.oid = p.typnamespace
                                LEFT JOIN pg_type e ON e.oid = p.typelem AND e.typarray = p.oid
                                LEFT JOIN pg_namespace en ON en.oid = e.typnamespace) END,
                            'multirange', (SELECT m.typname FROM pg_range r JOIN pg_type m ON m.oid = r.rngmultitypid
                                            WHERE r.rngtypid = t.oid AND x.extname IS NULL)
                          ) ORDER BY deepest.depth DESC, tn.nspname COLLATE "C", t.typname COLLATE "C")
                     FROM (SELECT used.type, max(used.depth) AS depth FROM used GROUP BY used.type) AS deepest
                     JOIN pg_type t ON t.oid = deepest.type
                     JOIN pg_namespace tn ON tn.oid = t.typnamespace AND tn.nspname <> 'pg_catalog'
                     LEFT JOIN pg_class tc ON tc.oid = t.typrelid
                     LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid
                                          AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
                     LEFT JOIN pg_extension x ON x.oid = d.refobjid
                    WHERE NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid)
                      AND (t.typtype <> 'm' OR x.extname IS NOT NULL))
       )) AS description
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
