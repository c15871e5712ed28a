// The metrics of a file whose row groups were copied: by its own footer, and where footers say less than the manifests of
// the files that it came of, by those. Compiled by Janino, as FileProver.java is.
package icekeeper;

import java.nio.ByteBuffer;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.Metrics;
import org.apache.iceberg.MetricsConfig;
import org.apache.iceberg.Schema;
import org.apache.iceberg.parquet.ParquetUtil;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.BlockMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ColumnChunkMetaData;
import org.apache.iceberg.types.Comparators;
import org.apache.iceberg.types.Conversions;
import org.apache.iceberg.types.Type;
import org.apache.iceberg.types.TypeUtil;
import org.apache.iceberg.types.Types;

public final class CopiedMetrics {
    public static final int NULLS = 0;
    public static final int NANS = 1;

    private final Schema schema;
    private final MetricsConfig config;

    public CopiedMetrics(Schema schema, MetricsConfig config) {
        this.schema = schema;
        this.config = config;
    }

    /** Of a footer no number says how many NaN a column has, and no bound holds where it has some. */
    public static boolean isUncertain(Types.NestedField field) {
        return field.type().typeId() == Type.TypeID.FLOAT || field.type().typeId() == Type.TypeID.DOUBLE;
    }

    /**
     * `claims`: the files that it came of, with their manifests' metrics of `columns`, the ids of which a footer does not
     * say everything. `parted`: the locations of those files of which others have row groups, too.
     */
    public Metrics of(RowGroups file, Collection claims, Set columns, Set parted) {
        Metrics own = ParquetUtil.footerMetrics(file.footer, Stream.empty(), this.config);
        Map values = new HashMap(own.valueCounts());
        Map nulls = new HashMap(own.nullValueCounts());
        Map nans = new HashMap(own.nanValueCounts());
        Map lower = new HashMap(own.lowerBounds());
        Map upper = new HashMap(own.upperBounds());
        Set unsaid = file.unsaid();
        // Iceberg's sums take a chunk of which nothing is said for one without values.
        values.keySet().removeAll(unsaid);
        nulls.keySet().removeAll(unsaid);
        lower.keySet().removeAll(unsaid);
        upper.keySet().removeAll(unsaid);
        Map fields = TypeUtil.indexById(this.schema.asStruct());
        for (Iterator each = columns.iterator(); each.hasNext();) {
            Integer id = (Integer) each.next();
            Types.NestedField field = (Types.NestedField) fields.get(id);
            String mode = this.config.columnMode(id.intValue()).toString();
            if (mode.equals("none") || (!unsaid.contains(id) && !isUncertain(field))) {
                continue;
            }
            if (unsaid.contains(id)) {
                put(values, id, Long.valueOf(valuesOf(file, id)));
                put(nulls, id, sum(claims, parted, id, NULLS));
            }
            if (isUncertain(field)) {
                put(nans, id, sum(claims, parted, id, NANS));
            }
            if (!mode.equals("counts") && !lower.containsKey(id)) {
                this.bound(claims, field, lower, upper);
            }
        }
        return new Metrics(own.recordCount(), own.columnSizes(), values, nulls, nans, lower, upper);
    }

    private static void put(Map counts, Integer id, Long count) {
        if (count != null) {
            counts.put(id, count);
        }
    }

    private static long valuesOf(RowGroups file, Integer id) {
        long values = 0;
        for (Iterator each = file.footer.getBlocks().iterator(); each.hasNext();) {
            for (Iterator chunks = ((BlockMetaData) each.next()).getColumns().iterator(); chunks.hasNext();) {
                ColumnChunkMetaData chunk = (ColumnChunkMetaData) chunks.next();
                values += chunk.getPrimitiveType().getId().intValue() == id.intValue() ? chunk.getValueCount() : 0;
            }
        }
        return values;
    }

    /** What a manifest says of a column: how many nulls or NaN it has; null where it does not say. */
    public static Long claimed(DataFile file, Integer id, int kind) {
        return file == null ? null : count(kind == NULLS ? file.nullValueCounts() : file.nanValueCounts(), id);
    }

    // How many of them the column has; null where that is not known.
    private static Long sum(Collection claims, Set parted, Integer id, int kind) {
        long sum = 0;
        for (Iterator each = claims.iterator(); each.hasNext();) {
            DataFile file = (DataFile) each.next();
            Long one = claimed(file, id, kind);
            if (one == null || (one.longValue() > 0 && parted.contains(file.location()))) {
                return null;
            }
            sum += one.longValue();
        }
        return Long.valueOf(sum);
    }

    private void bound(Collection claims, Types.NestedField field, Map lower, Map upper) {
        Integer id = Integer.valueOf(field.fieldId());
        Comparator order = Comparators.forType(field.type().asPrimitiveType());
        ByteBuffer low = null;
        ByteBuffer high = null;
        boolean below = true;
        boolean above = true;
        for (Iterator each = claims.iterator(); each.hasNext();) {
            DataFile file = (DataFile) each.next();
            Long all = count(file.valueCounts(), id);
            Long nulls = count(file.nullValueCounts(), id);
            Long none = isUncertain(field) ? count(file.nanValueCounts(), id) : Long.valueOf(0);
            if (all != null && nulls != null && none != null
                    && all.longValue() == nulls.longValue() + none.longValue()) {
                continue;
            }
            ByteBuffer one = bound(file.lowerBounds(), id);
            ByteBuffer other = bound(file.upperBounds(), id);
            below = below && !isNoBound(field, one);
            above = above && !isNoBound(field, other);
            if (below) {
                low = low == null || order.compare(value(field, one), value(field, low)) < 0 ? one : low;
            }
            if (above) {
                high = high == null || order.compare(value(field, other), value(field, high)) > 0 ? other : high;
            }
        }
        // A text that can't be cut short above has a lower bound alone; of numbers there are both or none.
        boolean both = below && above;
        if (low != null && (both || (below && !isUncertain(field)))) {
            lower.put(id, low);
        }
        if (high != null && (both || (above && !isUncertain(field)))) {
            upper.put(id, high);
        }
    }

    private static boolean isNoBound(Types.NestedField field, ByteBuffer bytes) {
        return bytes == null || (isUncertain(field) && Double.isNaN(((Number) value(field, bytes)).doubleValue()));
    }

    private static Object value(Types.NestedField field, ByteBuffer bytes) {
        return Conversions.fromByteBuffer(field.type(), (ByteBuffer) bytes.duplicate());
    }

    private static Long count(Map counts, Integer id) {
        return counts == null ? null : (Long) counts.get(id);
    }

    private static ByteBuffer bound(Map bounds, Integer id) {
        return bounds == null ? null : (ByteBuffer) bounds.get(id);
    }
}
