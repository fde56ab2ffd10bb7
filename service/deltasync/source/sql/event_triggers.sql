-- ALWAYS: a session in replica role (a restore, another replication tool) changes tables like any other.
DROP EVENT TRIGGER IF EXISTS deltasync_ddl;
CREATE EVENT TRIGGER deltasync_ddl ON ddl_command_end
  WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA',
               'ALTER TABLE', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER SCHEMA')
  EXECUTE FUNCTION deltasync.on_ddl();
ALTER EVENT TRIGGER deltasync_ddl ENABLE ALWAYS;
DROP EVENT TRIGGER IF EXISTS deltasync_drop;
CREATE EVENT TRIGGER deltasync_drop ON sql_drop EXECUTE FUNCTION deltasync.on_drop();
ALTER EVENT TRIGGER deltasync_drop ENABLE ALWAYS;
