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
import org.apache.iceberg.shaded.org.apache.parquet.column.statistics.Statistics;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.BlockMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ColumnChunkMetaData;
import org.apache.iceberg.types.Comparators;
import org.apache.iceberg.types.Conversions;
import org.apache.iceberg.types.Type;
import org.apache.iceberg.types.TypeUtil;
import org.apache.iceberg.types.Types;

public final class CopiedMetrics {
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
     * `claims`: the files that it came of, with their manifests' metrics of such columns. `parted`: the locations of those
     * of which other files have row groups, too.
     */
    public Metrics of(RowGroups file, Collection claims, Set parted) {
        Metrics own = ParquetUtil.footerMetrics(file.footer, Stream.empty(), this.config);
        Map lower = new HashMap(own.lowerBounds());
        Map upper = new HashMap(own.upperBounds());
        Map nans = new HashMap(own.nanValueCounts());
        for (Iterator each = file.footer.getBlocks().iterator(); each.hasNext();) {
            for (Iterator chunks = ((BlockMetaData) each.next()).getColumns().iterator(); chunks.hasNext();) {
                ColumnChunkMetaData chunk = (ColumnChunkMetaData) chunks.next();
                // Iceberg's sums take a chunk without bounds for one without values.
                if (!isBounded(chunk)) {
                    Integer id = Integer.valueOf(chunk.getPrimitiveType().getId().intValue());
                    lower.remove(id);
                    upper.remove(id);
                }
            }
        }
        for (Iterator each = TypeUtil.indexById(this.schema.asStruct()).values().iterator(); each.hasNext();) {
            Types.NestedField field = (Types.NestedField) each.next();
            Integer id = Integer.valueOf(field.fieldId());
            String mode = this.config.columnMode(field.fieldId()).toString();
            if (!isUncertain(field) || mode.equals("none") || !own.valueCounts().containsKey(id)) {
                continue;
            }
            Long counted = nans(claims, parted, id);
            if (counted != null) {
                nans.put(id, counted);
            }
            if (!mode.equals("counts") && !lower.containsKey(id)) {
                this.bound(claims, field, lower, upper);
            }
        }
        return new Metrics(own.recordCount(), own.columnSizes(), own.valueCounts(), own.nullValueCounts(), nans, lower, upper);
    }

    private static boolean isBounded(ColumnChunkMetaData chunk) {
        Statistics statistics = chunk.getStatistics();
        return statistics != null && (statistics.hasNonNullValue()
            || (statistics.isNumNullsSet() && statistics.getNumNulls() == chunk.getValueCount()));
    }

    // How many NaN the column has; null where that is not known.
    private static Long nans(Collection claims, Set parted, Integer id) {
        long sum = 0;
        for (Iterator each = claims.iterator(); each.hasNext();) {
            DataFile file = (DataFile) each.next();
            Long one = count(file.nanValueCounts(), id);
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
        for (Iterator each = claims.iterator(); each.hasNext();) {
            DataFile file = (DataFile) each.next();
            Long all = count(file.valueCounts(), id);
            Long nulls = count(file.nullValueCounts(), id);
            Long none = count(file.nanValueCounts(), id);
            if (all != null && nulls != null && none != null
                    && all.longValue() == nulls.longValue() + none.longValue()) {
                continue;
            }
            ByteBuffer one = bound(file.lowerBounds(), id);
            ByteBuffer other = bound(file.upperBounds(), id);
            if (isNoBound(field, one) || isNoBound(field, other)) {
                return;
            }
            low = low == null || order.compare(value(field, one), value(field, low)) < 0 ? one : low;
            high = high == null || order.compare(value(field, other), value(field, high)) > 0 ? other : high;
        }
        if (low != null) {
            lower.put(id, low);
            upper.put(id, high);
        }
    }

    private static boolean isNoBound(Types.NestedField field, ByteBuffer bytes) {
        return bytes == null || Double.isNaN(((Number) value(field, bytes)).doubleValue());
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
