package org.deltasync.connect;

import java.util.Map;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.errors.DataException;

/** The description of a table, as {@link TableHeader} writes it. */
final class Description {
    private static final String SOURCE = "__debezium.source.column.";
    // What Debezium says of a type without bounds: PostgreSQL's largest length, or numeric's largest precision.
    private static final int UNBOUNDED = 131_089;

    private Description() {
    }

    /** The JSON of a row's schema. Throws DataException where it lacks the types of the source. */
    static String of(Schema row) {
        StringBuilder json = new StringBuilder("[");
        for (Field field : row.fields()) {
            json.append(json.length() == 1 ? "[" : ",[");
            column(json, field);
            json.append(']');
        }
        return json.append(']').toString();
    }

    private static void column(StringBuilder json, Field field) {
        Map<String, String> source = field.schema().parameters();
        String type = source == null ? null : source.get(SOURCE + "type");
        if (type == null) {
            throw new DataException("The column " + field.name() + " comes without its type."
                    + " Set column.propagate.source.type=.* in the connector.");
        }
        Integer length = bounded(source.get(SOURCE + "length"));
        string(json, field.name()).append(',');
        string(json, type).append(',').append(length).append(',');
        json.append(length == null ? null : source.get(SOURCE + "scale")).append(',');
        json.append(field.schema().isOptional() && !source.containsKey(RawText.NOT_NULL));
    }

    private static Integer bounded(String length) {
        int number = length == null ? 0 : Integer.parseInt(length);
        return number <= 0 || number >= UNBOUNDED ? null : Integer.valueOf(number);
    }

    private static StringBuilder string(StringBuilder json, String text) {
        json.append('"');
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                json.append('\\').append(c);
            } else if (c < ' ') {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c);
            }
        }
        return json.append('"');
    }
}
