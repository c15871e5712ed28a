// A Parquet file whose row groups may be copied as they are: its footer, its indexes, and why not where they can't be.
// Compiled by Janino, as FileProver.java is; RowGroupCopier.java copies them.
package icekeeper;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.iceberg.Schema;
import org.apache.iceberg.io.IOUtil;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.parquet.ParquetSchemaUtil;
import org.apache.iceberg.shaded.org.apache.parquet.CorruptDeltaByteArrays;
import org.apache.iceberg.shaded.org.apache.parquet.CorruptStatistics;
import org.apache.iceberg.shaded.org.apache.parquet.ParquetReadOptions;
import org.apache.iceberg.shaded.org.apache.parquet.column.ColumnDescriptor;
import org.apache.iceberg.shaded.org.apache.parquet.column.Encoding;
import org.apache.iceberg.shaded.org.apache.parquet.column.statistics.Statistics;
import org.apache.iceberg.shaded.org.apache.parquet.column.values.bloomfilter.BloomFilter;
import org.apache.iceberg.shaded.org.apache.parquet.conf.PlainParquetConfiguration;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.ParquetFileReader;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.BlockMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ColumnChunkMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.FileMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ParquetMetadata;
import org.apache.iceberg.shaded.org.apache.parquet.internal.column.columnindex.ColumnIndex;
import org.apache.iceberg.shaded.org.apache.parquet.internal.column.columnindex.OffsetIndex;
import org.apache.iceberg.shaded.org.apache.parquet.internal.hadoop.metadata.IndexReference;
import org.apache.iceberg.shaded.org.apache.parquet.io.SeekableInputStream;
import org.apache.iceberg.shaded.org.apache.parquet.schema.LogicalTypeAnnotation;
import org.apache.iceberg.shaded.org.apache.parquet.schema.MessageType;
import org.apache.iceberg.shaded.org.apache.parquet.schema.PrimitiveType;
import org.apache.iceberg.shaded.org.apache.parquet.schema.PrimitiveType.PrimitiveTypeName;
import org.apache.iceberg.types.TypeUtil;
import org.apache.iceberg.types.Types;

public final class RowGroups {
    // What the first read fetches of a file's end: nearly every footer and its indexes, in one request.
    private static final int TAIL = 64 * 1024;
    private static final int WINDOW = 512 * 1024;
    // What may lie between the chunks of a row group: it is read with them.
    private static final long MOST_BETWEEN = 1024 * 1024;
    // How many bytes of memory a byte of a footer or an index becomes, while it is read and afterwards.
    private static final long GROWS = 8;
    private static final long LARGEST_BLOOM = 1024 * 1024;
    // A footer with such a key has Spark read dates and instants by another calendar.
    private static final String LEGACY = "org.apache.spark.legacy";

    public final InputFile input;
    public final long length;
    public final ParquetMetadata footer;
    // By row group and column: bloom filter, column index, offset index; null where the file has none.
    public final Object[][][] indexes;
    /**
     * Reads the footer and the indexes of a file. `room`: the bytes of memory that may be taken, null: any; what they take
     * is subtracted before they are read. Throws where they can't be read, also where the store fails.
     */
    public RowGroups(InputFile input, long length, AtomicLong room) throws IOException {
        this.input = input;
        this.length = length;
        Windows end = new Windows(input, length);
        take(room, GROWS * end.footerLength());
        // Without them Parquet reads Hadoop's files of settings anew for each file.
        ParquetReadOptions options = ParquetReadOptions.builder(new PlainParquetConfiguration()).build();
        ParquetFileReader reader = ParquetFileReader.open(new Source(end, length), options);
        try {
            this.footer = reader.getFooter();
            List blocks = this.footer.getBlocks();
            take(room, indexLength(blocks));
            this.indexes = new Object[blocks.size()][][];
            for (int number = 0; number < blocks.size(); number++) {
                List chunks = ((BlockMetaData) blocks.get(number)).getColumns();
                this.indexes[number] = new Object[chunks.size()][];
                for (int column = 0; column < chunks.size(); column++) {
                    ColumnChunkMetaData chunk = (ColumnChunkMetaData) chunks.get(column);
                    BloomFilter bloom = chunk.getBloomFilterOffset() < 0 ? null : reader.readBloomFilter(chunk);
                    this.indexes[number][column] = new Object[] {
                        bloom, reader.readColumnIndex(chunk), reader.readOffsetIndex(chunk)
                    };
                }
            }
        } finally {
            reader.close();
        }
    }

    private static void take(AtomicLong room, long bytes) {
        if (room != null && room.addAndGet(-bytes) < 0) {
            throw new TooLarge("the footers of the slice take more of the heap than they may");
        }
    }

    private static long indexLength(List blocks) {
        long length = 0;
        for (Iterator each = blocks.iterator(); each.hasNext();) {
            for (Iterator chunks = ((BlockMetaData) each.next()).getColumns().iterator(); chunks.hasNext();) {
                ColumnChunkMetaData chunk = (ColumnChunkMetaData) chunks.next();
                IndexReference values = chunk.getColumnIndexReference();
                IndexReference places = chunk.getOffsetIndexReference();
                length += GROWS * ((values == null ? 0 : values.getLength()) + (places == null ? 0 : places.getLength()));
                // Older writers don't say how long a bloom filter is.
                length += chunk.getBloomFilterOffset() < 0 ? 0
                    : chunk.getBloomFilterLength() < 0 ? LARGEST_BLOOM : chunk.getBloomFilterLength();
            }
        }
        return length;
    }

    public Object[][][] indexes() {
        return this.indexes;
    }

    public MessageType schema() {
        return this.footer.getFileMetaData().getSchema();
    }

    public BlockMetaData block(int number) {
        return (BlockMetaData) this.footer.getBlocks().get(number);
    }

    public long rows() {
        long rows = 0;
        for (Iterator each = this.footer.getBlocks().iterator(); each.hasNext();) {
            rows += ((BlockMetaData) each.next()).getRowCount();
        }
        return rows;
    }

    /** What its row groups hold, compressed. */
    public long bytes() {
        long bytes = 0;
        for (Iterator each = this.footer.getBlocks().iterator(); each.hasNext();) {
            bytes += ((BlockMetaData) each.next()).getCompressedSize();
        }
        return bytes;
    }

    /**
     * The ids of the columns of which the footer does not say everything that Iceberg notes: of long texts, from 4 KiB for
     * the lowest and the highest value together, Parquet's writers leave out both, and the number of nulls as well.
     */
    public Set unsaid() {
        Set found = new HashSet();
        for (Iterator each = this.footer.getBlocks().iterator(); each.hasNext();) {
            for (Iterator chunks = ((BlockMetaData) each.next()).getColumns().iterator(); chunks.hasNext();) {
                ColumnChunkMetaData chunk = (ColumnChunkMetaData) chunks.next();
                if (!isSaid(chunk)) {
                    found.add(Integer.valueOf(chunk.getPrimitiveType().getId().intValue()));
                }
            }
        }
        return found;
    }

    /** Whether a footer says how many nulls a chunk has, and between which values the others are. */
    public static boolean isSaid(ColumnChunkMetaData chunk) {
        Statistics statistics = chunk.getStatistics();
        return statistics != null && statistics.isNumNullsSet()
            && (statistics.hasNonNullValue() || statistics.getNumNulls() == chunk.getValueCount());
    }

    /** Whether the indexes of two chunks say the same, each of one that begins there. */
    public static boolean areSame(Object[] some, long start, Object[] others, long otherStart) {
        ColumnIndex values = (ColumnIndex) some[1];
        ColumnIndex otherValues = (ColumnIndex) others[1];
        boolean same = some[0] == null ? others[0] == null : some[0].equals(others[0]);
        same = same && (values == null ? otherValues == null : otherValues != null
            && values.getBoundaryOrder() == otherValues.getBoundaryOrder()
            && values.getNullPages().equals(otherValues.getNullPages())
            && values.getMinValues().equals(otherValues.getMinValues())
            && values.getMaxValues().equals(otherValues.getMaxValues())
            && (values.getNullCounts() == null ? otherValues.getNullCounts() == null
                : values.getNullCounts().equals(otherValues.getNullCounts())));
        OffsetIndex places = (OffsetIndex) some[2];
        OffsetIndex otherPlaces = (OffsetIndex) others[2];
        if (!same || places == null || otherPlaces == null || places.getPageCount() != otherPlaces.getPageCount()) {
            return same && places == null && otherPlaces == null;
        }
        for (int page = 0; page < places.getPageCount(); page++) {
            same = same && places.getOffset(page) - start == otherPlaces.getOffset(page) - otherStart
                && places.getCompressedPageSize(page) == otherPlaces.getCompressedPageSize(page)
                && places.getFirstRowIndex(page) == otherPlaces.getFirstRowIndex(page);
        }
        return same;
    }

    /**
     * Why its row groups can't be copied into a file of a table with these columns; null where they can. `stored`: the
     * columns as Iceberg's writers store them; `codec`: of all of its chunks; `smallest`: the size of its row groups but
     * for the last, in bytes.
     */
    public String refusal(Schema wanted, MessageType stored, String codec, long smallest) {
        FileMetaData metadata = this.footer.getFileMetaData();
        if (metadata.getEncryptionType() != FileMetaData.EncryptionType.UNENCRYPTED) {
            return "it is encrypted";
        }
        Map usual = new HashMap();
        for (Iterator each = stored.getColumns().iterator(); each.hasNext();) {
            PrimitiveType type = ((ColumnDescriptor) each.next()).getPrimitiveType();
            usual.put(Integer.valueOf(type.getId().intValue()), type);
        }
        for (Iterator each = this.schema().getColumns().iterator(); each.hasNext();) {
            ColumnDescriptor column = (ColumnDescriptor) each.next();
            if (column.getPrimitiveType().getId() == null) {
                return "a column of it has no field id";
            }
            if (column.getPrimitiveType().getPrimitiveTypeName() == PrimitiveTypeName.INT96) {
                return "it has instants of 96 bits";
            }
            // Also units of time: Iceberg takes bounds in milliseconds for those of microseconds.
            PrimitiveType type = (PrimitiveType) usual.get(Integer.valueOf(column.getPrimitiveType().getId().intValue()));
            if (type != null && !isStoredAs(type, column.getPrimitiveType())) {
                return "its column " + type.getName() + " is stored otherwise than Iceberg does";
            }
        }
        if (!isOf(wanted, ParquetSchemaUtil.convert(this.schema()))) {
            return "its columns are not those that the table has by now";
        }
        for (Iterator each = metadata.getKeyValueMetaData().keySet().iterator(); each.hasNext();) {
            if (((String) each.next()).startsWith(LEGACY)) {
                return "its dates are of an older calendar";
            }
        }
        if (CorruptStatistics.shouldIgnoreStatistics(metadata.getCreatedBy(), PrimitiveTypeName.BINARY)) {
            return "its writer's statistics are not to be relied upon";
        }
        for (Iterator each = this.footer.getBlocks().iterator(); each.hasNext();) {
            BlockMetaData block = (BlockMetaData) each.next();
            String odd = this.refusal(block, codec);
            if (odd != null) {
                return odd;
            }
            if (each.hasNext() && block.getCompressedSize() < smallest) {
                return "a row group of it has " + block.getCompressedSize() / 1024 + " KiB";
            }
        }
        return null;
    }

    private String refusal(BlockMetaData block, String codec) {
        if (block.getRowCount() == 0 || block.getColumns().size() != this.schema().getColumns().size()) {
            return "a row group of it lacks rows or columns";
        }
        long end = 0;
        long between = 0;
        for (Iterator each = block.getColumns().iterator(); each.hasNext();) {
            ColumnChunkMetaData chunk = (ColumnChunkMetaData) each.next();
            if (chunk.isEncrypted()) {
                return "it is encrypted";
            }
            if (!chunk.getCodec().name().equals(codec)) {
                return "it is compressed by " + chunk.getCodec() + ", not " + codec;
            }
            if (chunk.getEncodings().contains(Encoding.DELTA_BYTE_ARRAY) && CorruptDeltaByteArrays.requiresSequentialReads(
                    this.footer.getFileMetaData().getCreatedBy(), Encoding.DELTA_BYTE_ARRAY)) {
                return "its writer's pages depend on one another";
            }
            long start = chunk.getStartingPos();
            boolean dictionary = chunk.getDictionaryPageOffset() > 0
                && chunk.getDictionaryPageOffset() < chunk.getFirstDataPageOffset();
            if (start < Math.max(end, 4) || start + chunk.getTotalSize() > this.length
                    || dictionary != chunk.hasDictionaryPage()) {
                return "its column chunks do not follow one another";
            }
            between += end == 0 ? 0 : start - end;
            end = start + chunk.getTotalSize();
        }
        return between > MOST_BETWEEN ? "its column chunks are apart" : null;
    }

    private static boolean isStoredAs(PrimitiveType wanted, PrimitiveType found) {
        Object annotation = wanted.getLogicalTypeAnnotation();
        boolean same = annotation == null ? found.getLogicalTypeAnnotation() == null
            : annotation.equals(found.getLogicalTypeAnnotation());
        boolean decimal = annotation instanceof LogicalTypeAnnotation.DecimalLogicalTypeAnnotation;
        return same && (decimal || wanted.getPrimitiveTypeName() == found.getPrimitiveTypeName());
    }

    // The same columns at every level: ids, names and types. What the table requires must be required; Spark writes as
    // required whatever its query says is never null.
    private static boolean isOf(Schema wanted, Schema found) {
        Map all = TypeUtil.indexById(wanted.asStruct());
        Map own = TypeUtil.indexById(found.asStruct());
        Map parents = TypeUtil.indexParents(wanted.asStruct());
        if (!all.keySet().equals(own.keySet()) || !parents.equals(TypeUtil.indexParents(found.asStruct()))) {
            return false;
        }
        for (Iterator each = all.values().iterator(); each.hasNext();) {
            Types.NestedField one = (Types.NestedField) each.next();
            Types.NestedField other = (Types.NestedField) own.get(Integer.valueOf(one.fieldId()));
            boolean same = one.type().isPrimitiveType() ? one.type().equals(other.type())
                : one.type().typeId() == other.type().typeId();
            if (!same || !one.name().equals(other.name()) || (one.isRequired() && other.isOptional())) {
                return false;
            }
        }
        return true;
    }

    /** The footers take more memory than they may. */
    public static final class TooLarge extends RuntimeException {
        public TooLarge(String message) {
            super(message);
        }
    }

    // The file as Parquet's reader has it. Its end is read at once, and what lies before it in windows.
    private static final class Source implements org.apache.iceberg.shaded.org.apache.parquet.io.InputFile {
        private final Windows windows;
        private final long length;

        Source(Windows windows, long length) {
            this.windows = windows;
            this.length = length;
        }

        public long getLength() {
            return this.length;
        }

        public SeekableInputStream newStream() {
            return this.windows;
        }
    }

    private static final class Windows extends SeekableInputStream {
        private final InputFile input;
        private final long length;
        private final byte[][] windows = new byte[2][];
        private final long[] starts = new long[2];
        private long position;

        Windows(InputFile input, long length) {
            this.input = input;
            this.length = length;
        }

        /** By the last eight bytes of the file. */
        long footerLength() throws IOException {
            byte[] last = new byte[8];
            this.seek(Math.max(0, this.length - last.length));
            this.readFully(last);
            long size = ByteBuffer.wrap(last).order(ByteOrder.LITTLE_ENDIAN).getInt();
            if (size < 0 || size > this.length - last.length) {
                throw new IOException("its end is not that of a Parquet file");
            }
            return size;
        }

        public long getPos() {
            return this.position;
        }

        public void seek(long position) {
            this.position = position;
        }

        public int read() throws IOException {
            byte[] one = new byte[1];
            return this.read(one, 0, 1) < 0 ? -1 : one[0] & 255;
        }

        public int read(byte[] bytes, int offset, int most) throws IOException {
            if (this.position >= this.length) {
                return -1;
            }
            int place = this.position >= this.length - TAIL ? 0 : 1;
            byte[] window = this.windows[place];
            if (window == null || this.position < this.starts[place]
                    || this.position >= this.starts[place] + window.length) {
                this.starts[place] = place == 0 ? Math.max(0, this.length - TAIL) : this.position;
                long size = place == 0 ? TAIL : WINDOW;
                window = new byte[(int) Math.min(size, this.length - this.starts[place])];
                IOUtil.readFully(this.input, this.starts[place], window, 0, window.length);
                this.windows[place] = window;
            }
            int from = (int) (this.position - this.starts[place]);
            int count = Math.min(most, window.length - from);
            System.arraycopy(window, from, bytes, offset, count);
            this.position += count;
            return count;
        }

        public void readFully(byte[] bytes) throws IOException {
            this.readFully(bytes, 0, bytes.length);
        }

        public void readFully(byte[] bytes, int offset, int count) throws IOException {
            for (int done = 0; done < count;) {
                int more = this.read(bytes, offset + done, count - done);
                if (more < 0) {
                    throw new EOFException("the file ends at " + this.length);
                }
                done += more;
            }
        }

        public int read(ByteBuffer to) throws IOException {
            byte[] bytes = new byte[Math.min(to.remaining(), WINDOW)];
            int count = this.read(bytes, 0, bytes.length);
            if (count > 0) {
                to.put(bytes, 0, count);
            }
            return count;
        }

        public void readFully(ByteBuffer to) throws IOException {
            byte[] bytes = new byte[to.remaining()];
            this.readFully(bytes, 0, bytes.length);
            to.put(bytes);
        }
    }
}
