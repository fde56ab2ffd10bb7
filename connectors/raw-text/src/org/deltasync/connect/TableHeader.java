package org.deltasync.connect;

import java.util.IdentityHashMap;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.ConnectRecord;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.header.Headers;
import org.apache.kafka.connect.transforms.Transformation;

/**
 * Puts the description of a change's table into the record's header {@code deltasync.table}, and takes Debezium's
 * four {@code __debezium.context.*} headers away; but {@code runId} stays where a change tells its transaction, since it
 * tells rows that are sent again from new ones where a table has no key. All else stays as it is.
 *
 * <p>The description is JSON, an array with one {@code [name, type, length, scale, nullable]} for each column, in
 * the columns' order. Type, length and scale are Debezium's ({@code column.propagate.source.type=.*} must be set,
 * or the record is refused): the type's name in capitals, that of an array with an underscore before it. Length and
 * scale are null where the type has no bounds. The text is the same, byte by byte, until the table changes.
 *
 * <p>Records that are no change of a table (heartbeats, transactions, tombstones) get no description.
 *
 * <p>The offset of a key change's first record is made that of the record before it (see {@link KeyChanges}).
 */
public final class TableHeader<R extends ConnectRecord<R>> implements Transformation<R> {
    static final String NAME = "deltasync.table";

    private static final String[] UNWANTED = {
        "__debezium.context.connectorLogicalName",
        "__debezium.context.taskId",
        "__debezium.context.connectorName",
    };
    private static final String RUN = "__debezium.context.runId";
    // Schemas that no longer occur would else stay for ever; a table in use is described again at no cost that shows.
    private static final int KNOWN_MAX = 10_000;

    // Debezium has one schema object for all records of a table until the table changes.
    private final Map<Schema, String> known = new IdentityHashMap<>();
    private final KeyChanges keyChanges = new KeyChanges();

    @Override
    public R apply(R record) {
        keyChanges.keepWhole(record);
        Headers headers = record.headers();
        for (String unwanted : UNWANTED) {
            headers.remove(unwanted);
        }
        Schema schema = record.valueSchema();
        if (!tellsTransaction(record.value())) {
            headers.remove(RUN);
        }
        Field after = schema == null || schema.type() != Schema.Type.STRUCT ? null : schema.field("after");
        if (after != null) {
            if (known.size() >= KNOWN_MAX) {
                known.clear();
            }
            headers.add(NAME, known.computeIfAbsent(schema, unknown -> Description.of(after.schema())), Schema.STRING_SCHEMA);
        }
        return record;
    }

    private static boolean tellsTransaction(Object value) {
        return value instanceof Struct change
            && change.schema().field("transaction") != null
            && change.get("transaction") != null;
    }

    @Override
    public ConfigDef config() {
        return new ConfigDef();
    }

    @Override
    public void configure(Map<String, ?> settings) {
        // There is nothing to set.
    }

    @Override
    public void close() {
        known.clear();
    }
}
