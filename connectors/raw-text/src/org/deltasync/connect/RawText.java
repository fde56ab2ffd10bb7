package org.deltasync.connect;

import io.debezium.spi.converter.CustomConverter;
import io.debezium.spi.converter.RelationalColumn;
import java.sql.Types;
import java.util.Properties;
import java.util.Set;
import java.util.regex.Pattern;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.errors.DataException;
import org.postgresql.geometric.PGpolygon;
import org.postgresql.jdbc.PgArray;
import org.postgresql.util.PGobject;

/**
 * Delivers columns as the text that PostgreSQL itself writes for them ({@code value::text}).
 *
 * <p>Which columns: every array and every domain over an array; the built-in types {@code varbit},
 * {@code timetz}, {@code polygon}, {@code int2vector}, {@code oidvector} and domains over these; and columns
 * whose type's name matches the setting {@code types}, a regular expression for the whole name. All others
 * are left to Debezium.
 *
 * <p>A large value that did not change, and so did not travel, is delivered as the setting
 * {@code placeholder}, whatever the column's type. NULL stays null: the fields are optional, and
 * {@link #NOT_NULL} among a field's parameters says that its column is not. A column's default is left out.
 *
 * <p>A value of a class that is not known to be PostgreSQL's text is an error, never a guess.
 */
public final class RawText implements CustomConverter<SchemaBuilder, RelationalColumn> {
    /** The parameter of a field's schema that tells a column which may not be null. */
    static final String NOT_NULL = "deltasync.not.null";

    // pg_type.oid of what PostgreSQL has built in: the same in every database, and seen through domains.
    private static final Set<Integer> BUILT_IN = Set.of(1562, 1266, 604, 22, 30);

    private Pattern types;
    private String placeholder;

    @Override
    public void configure(Properties settings) {
        types = Pattern.compile(required(settings, "types"));
        placeholder = required(settings, "placeholder");
    }

    @Override
    public void converterFor(RelationalColumn column, ConverterRegistration<SchemaBuilder> registration) {
        if (!isTaken(column)) {
            return;
        }
        // Debezium asks to have the default converted as if it were a value; it is the one object that it hands over here.
        Object defaultValue = column.defaultValue();
        SchemaBuilder schema = SchemaBuilder.string().optional();
        if (!column.isOptional()) {
            schema.parameter(NOT_NULL, "true");
        }
        registration.register(schema, value -> value == defaultValue ? null : text(value, column));
    }

    private boolean isTaken(RelationalColumn column) {
        return column.jdbcType() == Types.ARRAY
                || BUILT_IN.contains(column.nativeType())
                || types.matcher(column.typeName()).matches();
    }

    /**
     * The text of a value, by the classes that arrive: arrays by snapshot and stream, in text form; strings where
     * Debezium hands the text through; PGobject from the snapshot; a polygon, whose numbers Java writes.
     */
    private String text(Object value, RelationalColumn column) {
        if (value == null) {
            return null;
        }
        if (value instanceof String text) {
            return text;
        }
        if (value instanceof PgArray array && !array.isBinary()) {
            return array.toString();
        }
        if (value instanceof PGpolygon || value.getClass() == PGobject.class) {
            return ((PGobject) value).getValue();
        }
        if (value.getClass() == Object.class) {
            return placeholder;
        }
        throw new DataException("The column " + column.dataCollection() + "." + column.name() + " of type "
                + column.typeName() + " arrived as " + value.getClass().getName()
                + ", of which it is not known whether it is PostgreSQL's text."
                + " Take the type out of the setting types, or add driver.binaryTransfer=false if it is an array.");
    }

    private static String required(Properties settings, String name) {
        String value = settings.getProperty(name);
        if (value == null || value.isEmpty()) {
            throw new IllegalArgumentException("The setting " + name + " of the raw-text converter is missing.");
        }
        return value;
    }
}
