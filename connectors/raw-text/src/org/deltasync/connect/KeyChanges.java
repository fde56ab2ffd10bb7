package org.deltasync.connect;

import java.util.Map;
import org.apache.kafka.connect.connector.ConnectRecord;
import org.apache.kafka.connect.source.SourceRecord;

/**
 * Has the two records of a key change come again together. Debezium 3.7 makes a delete and an insert of such an update,
 * both with the update's place as their offset: where Connect stores the delete's and then stops, the task begins
 * behind the update, and the row under its new key is never sent.
 *
 * <p>So the delete gets the offset of the record before it, which Connect stores instead; the update comes again then,
 * whole. Only the first record of a task keeps its own: what was before it is not known here.
 */
final class KeyChanges {
    private static final String FIRST_HALF = "__debezium.newkey";

    private Map<String, ?> before;

    /** To be told of every record of a task, in order. */
    void keepWhole(ConnectRecord<?> record) {
        if (!(record instanceof SourceRecord change) || change.sourceOffset() == null) {
            return;
        }
        if (record.headers().lastWithName(FIRST_HALF) == null) {
            before = change.sourceOffset();
        } else if (before != null) {
            begin(change.sourceOffset(), before);
        }
    }

    // Connect takes the offset from the record that it gave to the transform, so that a record made anew would not do.
    @SuppressWarnings("unchecked")
    private static void begin(Map<String, ?> offset, Map<String, ?> before) {
        Map<String, Object> own = (Map<String, Object>) offset;
        own.clear();
        own.putAll(before);
    }
}
