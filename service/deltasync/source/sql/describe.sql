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
                          WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts),
         'columns', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                       'name', a.attname,
                       'sql_type', format_type(a.atttypid, a.atttypmod),
                       'type', jsonb_build_object('schema', tn.nspname, 'name', t.typname),
                       'not_null', nullif(a.attnotnull, false),
                       'default', pg_get_expr(d.adbin, d.adrelid),
                       'identity', nullif(a.attidentity, ''),
                       'generated', nullif(a.attgenerated, ''),
                       'element', CASE WHEN e.oid IS NOT NULL
                                       THEN jsonb_build_object('schema', en.nspname, 'name', e.typname) END,
                       'labels', (SELECT jsonb_agg(l.enumlabel ORDER BY l.enumsortorder)
                                    FROM pg_enum l WHERE l.enumtypid = coalesce(e.oid, t.oid)),
                       'domain', nullif(t.typtype = 'd', false),
                       'collation_exact', nullif(coalesce(o.collisdeterministic, true), true)
                     ) ORDER BY a.attnum), '[]')
                       FROM pg_attribute a
                       JOIN pg_type t ON t.oid = a.atttypid
                       JOIN pg_namespace tn ON tn.oid = t.typnamespace
                       LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
                       LEFT JOIN pg_namespace en ON en.oid = e.typnamespace
                       LEFT JOIN pg_collation o ON o.oid = a.attcollation
                       LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
       )) AS description
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
