package org.deltasync.connect;

import java.util.IdentityHashMap;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.ConnectRecord;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.header.Headers;
import org.apache.kafka.connect.transforms.Transformation;

/**
 * Puts the description of a change's table into the record's header {@code deltasync.table}, and takes Debezium's
 * four {@code __debezium.context.*} headers away. All else stays as it is.
 *
 * <p>The description is JSON, an array with one {@code [name, type, length, scale, nullable]} for each column, in
 * the columns' order. Type, length and scale are Debezium's ({@code column.propagate.source.type=.*} must be set,
 * or the record is refused): the type's name in capitals, that of an array with an underscore before it. Length and
 * scale are null where the type has no bounds. The text is the same, byte by byte, until the table changes.
 *
 * <p>Records that are no change of a table (heartbeats, transactions, tombstones) get no description.
 */
public final class TableHeader<R extends ConnectRecord<R>> implements Transformation<R> {
    static final String NAME = "deltasync.table";

    private static final String[] UNWANTED = {
        "__debezium.context.connectorLogicalName",
        "__debezium.context.taskId",
        "__debezium.context.connectorName",
        "__debezium.context.runId",
    };
    // Schemas that no longer occur would else stay for ever; a table in use is described again at no cost that shows.
    private static final int KNOWN_MAX = 10_000;

    // Debezium has one schema object for all records of a table until the table changes.
    private final Map<Schema, String> known = new IdentityHashMap<>();

    @Override
    public R apply(R record) {
        Headers headers = record.headers();
        for (String unwanted : UNWANTED) {
            headers.remove(unwanted);
        }
        Schema schema = record.valueSchema();
        Field after = schema == null || schema.type() != Schema.Type.STRUCT ? null : schema.field("after");
        if (after != null) {
            if (known.size() >= KNOWN_MAX) {
                known.clear();
            }
            headers.add(NAME, known.computeIfAbsent(schema, unknown -> Description.of(after.schema())), Schema.STRING_SCHEMA);
        }
        return record;
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
