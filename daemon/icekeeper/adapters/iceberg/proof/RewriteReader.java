// Reads what a rewrite replaced and what it wrote, in the JVM of the session: the metrics of all columns by the manifests
// of its snapshot, and the scan tasks of its files. Compiled by Janino, as FileProver.java is; what it means is decided in
// core/tables/rewrites.py.
package icekeeper;

import java.io.File;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.ManifestFile;
import org.apache.iceberg.ManifestFiles;
import org.apache.iceberg.ManifestReader;
import org.apache.iceberg.MetricsConfig;
import org.apache.iceberg.PartitionSpec;
import org.apache.iceberg.Schema;
import org.apache.iceberg.Snapshot;
import org.apache.iceberg.Table;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.spark.ScanTaskSetManager;
import org.apache.iceberg.spark.SparkTableCache;
import org.apache.iceberg.types.Comparators;
import org.apache.iceberg.types.Conversions;
import org.apache.iceberg.types.Type;
import org.apache.iceberg.types.TypeUtil;
import org.apache.iceberg.types.Types;

public final class RewriteReader {
    // The files that went, and those that came.
    private static final int SIDES = 2;
    // Of what is no column of the table's own, such as the ids of rows.
    private static final int FIRST_RESERVED = Integer.MAX_VALUE - 200 - 1000;
    private static final List TEXT = Arrays.asList(new Object[] {"STRING"});
    private static final List BYTES = Arrays.asList(new Object[] {"BINARY", "FIXED", "UUID"});
    private static final List ORDERED = Arrays.asList(new Object[] {
        "BOOLEAN", "INTEGER", "LONG", "FLOAT", "DOUBLE", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP_NANO", "DECIMAL"
    });

    private final Table table;
    private final Snapshot snapshot;
    private final List columns = new ArrayList();
    private final long[] files = new long[SIDES];
    private final long[] records = new long[SIDES];
    private final Set formats = new HashSet();
    // By partition: how many files and bytes went, and came.
    private final Map groups = new TreeMap();
    // By side, the group of each file by its location.
    private final Map[] locations = new Map[] {new TreeMap(), new TreeMap()};
    private long stagedFiles;
    private long stagedBytes;

    public RewriteReader(Table table, long snapshotId) throws Exception {
        this.table = table;
        this.snapshot = table.snapshot(snapshotId);
        Schema schema = table.schema();
        MetricsConfig modes = MetricsConfig.forTable(table);
        for (Iterator each = TypeUtil.indexById(schema.asStruct()).values().iterator(); each.hasNext();) {
            Types.NestedField field = (Types.NestedField) each.next();
            if (field.type().isPrimitiveType()) {
                this.columns.add(new Column(field, schema, modes));
            }
        }
        this.read();
    }

    private void read() throws Exception {
        // Iceberg's own list of the files that a snapshot removed comes without their metrics.
        Method entries = ManifestReader.class.getDeclaredMethod("entries", new Class[0]);
        Class entryType = Class.forName("org.apache.iceberg.ManifestEntry", true, ManifestReader.class.getClassLoader());
        Method status = entryType.getMethod("status", new Class[0]);
        Method snapshotId = entryType.getMethod("snapshotId", new Class[0]);
        Method file = entryType.getMethod("file", new Class[0]);
        Method[] all = new Method[] {entries, status, snapshotId, file};
        for (int place = 0; place < all.length; place++) {
            all[place].setAccessible(true);
        }
        Long own = Long.valueOf(this.snapshot.snapshotId());
        for (Iterator each = this.snapshot.dataManifests(this.table.io()).iterator(); each.hasNext();) {
            ManifestFile manifest = (ManifestFile) each.next();
            if (!own.equals(manifest.snapshotId())) {
                continue;
            }
            ManifestReader reader = ManifestFiles.read(manifest, this.table.io(), this.table.specs());
            try {
                CloseableIterable found = (CloseableIterable) entries.invoke(reader, new Object[0]);
                for (Iterator some = found.iterator(); some.hasNext();) {
                    Object entry = some.next();
                    String what = status.invoke(entry, new Object[0]).toString();
                    if (!what.equals("EXISTING") && own.equals(snapshotId.invoke(entry, new Object[0]))) {
                        this.add((DataFile) file.invoke(entry, new Object[0]), what.equals("DELETED") ? 0 : 1);
                    }
                }
            } finally {
                reader.close();
            }
        }
    }

    private void add(DataFile file, int side) {
        PartitionSpec spec = (PartitionSpec) this.table.specs().get(Integer.valueOf(file.specId()));
        String group = SchemaFit.path(spec, file.partition());
        long[] sums = (long[]) this.groups.get(group);
        if (sums == null) {
            sums = new long[2 * SIDES];
            this.groups.put(group, sums);
        }
        sums[2 * side]++;
        sums[2 * side + 1] += file.fileSizeInBytes();
        this.files[side]++;
        this.records[side] += file.recordCount();
        this.formats.add(file.format().name());
        this.locations[side].put(file.location(), group);
        int newest = newest(file.valueCounts());
        for (Iterator each = this.columns.iterator(); each.hasNext();) {
            ((Column) each.next()).sides[side].add(file, newest);
        }
    }

    // The highest id of a column that a file has counts of; Iceberg numbers columns as they are added.
    private static int newest(Map counts) {
        int newest = 0;
        if (counts != null) {
            for (Iterator each = counts.keySet().iterator(); each.hasNext();) {
                int id = ((Integer) each.next()).intValue();
                newest = id < FIRST_RESERVED ? Math.max(newest, id) : newest;
            }
        }
        return newest;
    }

    // How many of the files that went had delete files that apply to them.
    private long withDeletes() throws Exception {
        long found = 0;
        Long parent = this.snapshot.parentId();
        Snapshot before = parent == null ? null : this.table.snapshot(parent.longValue());
        if (before == null || "0".equals(before.summary().get("total-delete-files"))) {
            return found;
        }
        CloseableIterable tasks = this.table.newScan().useSnapshot(parent.longValue()).planFiles();
        try {
            for (Iterator each = tasks.iterator(); each.hasNext();) {
                FileScanTask task = (FileScanTask) each.next();
                if (!task.deletes().isEmpty() && this.locations[0].containsKey(task.file().location())) {
                    found++;
                }
            }
        } finally {
            tasks.close();
        }
        return found;
    }

    // Writes it as one JSON array: parent, files, records, formats, files with deletes, columns, partitions.
    public void describe(String output) throws Exception {
        List described = new ArrayList();
        for (Iterator each = this.columns.iterator(); each.hasNext();) {
            described.add(((Column) each.next()).described());
        }
        List parts = new ArrayList();
        for (Iterator each = this.groups.entrySet().iterator(); each.hasNext();) {
            Map.Entry group = (Map.Entry) each.next();
            parts.add(new Object[] {group.getKey(), group.getValue()});
        }
        new ObjectMapper().writeValue(new File(output), new Object[] {
            this.snapshot.parentId(), this.files, this.records, this.formats, Long.valueOf(this.withDeletes()), described,
            parts
        });
    }

    // Stages the scan of one side's files, with the deletes that apply to them at its snapshot, under a name by which Spark
    // loads them as a table. `named`: of these partitions, one a line; empty for all. Returns how many files are missing.
    public long stage(String name, int side, String named) throws Exception {
        Set chosen = named.isEmpty() ? null : new HashSet(Arrays.asList((Object[]) named.split("\n")));
        Set wanted = new HashSet();
        for (Iterator each = this.locations[side].entrySet().iterator(); each.hasNext();) {
            Map.Entry file = (Map.Entry) each.next();
            if (chosen == null || chosen.contains(file.getValue())) {
                wanted.add(file.getKey());
            }
        }
        long at = side == 0 ? this.snapshot.parentId().longValue() : this.snapshot.snapshotId();
        List staged = new ArrayList();
        this.stagedBytes = 0;
        CloseableIterable tasks = this.table.newScan().useSnapshot(at).planFiles();
        try {
            for (Iterator each = tasks.iterator(); each.hasNext();) {
                FileScanTask task = (FileScanTask) each.next();
                if (wanted.remove(task.file().location())) {
                    staged.add(task);
                    this.stagedBytes += task.length();
                }
            }
        } finally {
            tasks.close();
        }
        if (!staged.isEmpty()) {
            SparkTableCache.get().add(name, this.table);
            ScanTaskSetManager.get().stageTasks(this.table, name, staged);
        }
        this.stagedFiles = staged.size();
        return wanted.isEmpty() && staged.isEmpty() ? -1 : wanted.size();
    }

    // How many files were staged last, and their length in bytes.
    public long stagedFiles() {
        return this.stagedFiles;
    }

    public long stagedBytes() {
        return this.stagedBytes;
    }

    public void unstage(String name) {
        SparkTableCache.get().remove(name);
        ScanTaskSetManager.get().removeTasks(this.table, name);
    }

    // What manifests say of a column on both sides.
    private static final class Column {
        final Types.NestedField field;
        final String name;
        final boolean nested;
        final String mode;
        final String kind;
        final Comparator order;
        final Side[] sides;

        Column(Types.NestedField field, Schema schema, MetricsConfig modes) {
            this.field = field;
            this.name = schema.findColumnName(field.fieldId());
            this.nested = schema.asStruct().field(field.fieldId()) == null;
            this.mode = modes.columnMode(field.fieldId()).toString();
            String type = field.type().typeId().name();
            this.kind = TEXT.contains(type) ? "text" : BYTES.contains(type) ? "bytes"
                : ORDERED.contains(type) ? "ordered" : "none";
            this.order = this.kind.equals("ordered") ? Comparators.forType((Type.PrimitiveType) field.type()) : null;
            this.sides = new Side[] {new Side(this), new Side(this)};
        }

        // Texts and bytes in the order of their bytes, which is that of Parquet's statistics.
        int compare(Object one, Object other) {
            if (this.order != null) {
                return this.order.compare(one, other);
            }
            return Arrays.compareUnsigned((byte[]) one, (byte[]) other);
        }

        Object value(Map bounds) {
            ByteBuffer bound = bounds == null ? null : (ByteBuffer) bounds.get(Integer.valueOf(this.field.fieldId()));
            if (bound == null || this.kind.equals("none")) {
                return null;
            }
            if (this.order == null) {
                byte[] bytes = new byte[bound.remaining()];
                ((ByteBuffer) bound.duplicate()).get(bytes);
                return bytes;
            }
            try {
                Object value = Conversions.fromByteBuffer(this.field.type(), (ByteBuffer) bound.duplicate());
                // Whether a zero is negative, statistics don't say.
                if (value instanceof Double && ((Double) value).doubleValue() == 0.0d) {
                    return Double.valueOf(0.0d);
                }
                return value instanceof Float && ((Float) value).floatValue() == 0.0f ? Float.valueOf(0.0f) : value;
            } catch (RuntimeException unreadable) {
                return null;
            }
        }

        Integer ordered(Object went, Object came) {
            return went == null || came == null ? null : Integer.valueOf(this.compare(came, went));
        }

        Object[] described() {
            String type = this.field.type().typeId().name();
            boolean defaults = this.field.initialDefault() != null;
            return new Object[] {
                this.name, this.kind, Boolean.valueOf(this.nested), Boolean.valueOf(type.equals("FLOAT") || type.equals("DOUBLE")),
                Boolean.valueOf(defaults), this.mode, this.sides[0].described(), this.sides[1].described(),
                this.ordered(this.sides[0].lower, this.sides[1].lower), this.ordered(this.sides[0].upper, this.sides[1].upper)
            };
        }
    }

    // The sums of a column's metrics over the files of a side.
    private static final class Side {
        final Column column;
        long values;
        long nulls;
        long nans;
        boolean nansKnown = true;
        // The rows of files of before the column, and of those without counts of it; the files whose values have no bounds.
        long older;
        long uncounted;
        long unbounded;
        Object lower;
        Object upper;

        Side(Column column) {
            this.column = column;
        }

        void add(DataFile file, int newest) {
            Long counted = this.count(file.valueCounts());
            Long empty = this.count(file.nullValueCounts());
            if (counted == null || empty == null) {
                if (newest > 0 && newest < this.column.field.fieldId() && counted == null) {
                    this.older += file.recordCount();
                } else {
                    this.uncounted += file.recordCount();
                }
                return;
            }
            Long numberless = this.count(file.nanValueCounts());
            this.values += counted.longValue();
            this.nulls += empty.longValue();
            if (numberless == null) {
                this.nansKnown = false;
            } else {
                this.nans += numberless.longValue();
            }
            long bounded = counted.longValue() - empty.longValue() - (numberless == null ? 0 : numberless.longValue());
            if (bounded <= 0) {
                return;
            }
            Object low = this.column.value(file.lowerBounds());
            Object high = this.column.value(file.upperBounds());
            if (low == null || high == null) {
                this.unbounded++;
                return;
            }
            this.lower = this.lower == null || this.column.compare(low, this.lower) < 0 ? low : this.lower;
            this.upper = this.upper == null || this.column.compare(high, this.upper) > 0 ? high : this.upper;
        }

        private Long count(Map counts) {
            return counts == null ? null : (Long) counts.get(Integer.valueOf(this.column.field.fieldId()));
        }

        Object[] described() {
            return new Object[] {
                Long.valueOf(this.values), Long.valueOf(this.nulls), this.nansKnown ? Long.valueOf(this.nans) : null,
                Long.valueOf(this.older), Long.valueOf(this.uncounted), Long.valueOf(this.unbounded), hex(this.lower), hex(this.upper)
            };
        }

        // Bounds of texts and bytes; others are compared in Java.
        private static String hex(Object bound) {
            if (!(bound instanceof byte[])) {
                return null;
            }
            StringBuilder text = new StringBuilder();
            byte[] bytes = (byte[]) bound;
            for (int place = 0; place < bytes.length; place++) {
                text.append(Character.forDigit((bytes[place] >> 4) & 15, 16)).append(Character.forDigit(bytes[place] & 15, 16));
            }
            return text.toString();
        }
    }
}
