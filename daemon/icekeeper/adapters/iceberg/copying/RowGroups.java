// A Parquet file whose row groups may be copied as they are: its footer, its indexes, and why not where they can't be.
// Compiled by Janino, as FileProver.java is; RowGroupCopier.java copies them.
package icekeeper;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.apache.iceberg.Schema;
import org.apache.iceberg.io.IOUtil;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.parquet.ParquetSchemaUtil;
import org.apache.iceberg.shaded.org.apache.parquet.CorruptDeltaByteArrays;
import org.apache.iceberg.shaded.org.apache.parquet.CorruptStatistics;
import org.apache.iceberg.shaded.org.apache.parquet.column.ColumnDescriptor;
import org.apache.iceberg.shaded.org.apache.parquet.column.Encoding;
import org.apache.iceberg.shaded.org.apache.parquet.column.values.bloomfilter.BloomFilter;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.ParquetFileReader;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.BlockMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ColumnChunkMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.FileMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ParquetMetadata;
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
    // A footer with such a key has Spark read dates and instants by another calendar.
    private static final String LEGACY = "org.apache.spark.legacy";

    public final InputFile input;
    public final long length;
    public final ParquetMetadata footer;
    // By row group and column: bloom filter, column index, offset index; null where the file has none.
    public final Object[][][] indexes;
    public long bloomBytes;

    /** Reads the footer and the indexes of a file. Throws where they can't be read, also where the store fails. */
    public RowGroups(InputFile input, long length) throws IOException {
        this.input = input;
        this.length = length;
        ParquetFileReader reader = ParquetFileReader.open(new Source(input, length));
        try {
            this.footer = reader.getFooter();
            List blocks = this.footer.getBlocks();
            this.indexes = new Object[blocks.size()][][];
            for (int number = 0; number < blocks.size(); number++) {
                List chunks = ((BlockMetaData) blocks.get(number)).getColumns();
                this.indexes[number] = new Object[chunks.size()][];
                for (int column = 0; column < chunks.size(); column++) {
                    ColumnChunkMetaData chunk = (ColumnChunkMetaData) chunks.get(column);
                    BloomFilter bloom = chunk.getBloomFilterOffset() < 0 ? null : reader.readBloomFilter(chunk);
                    this.bloomBytes += bloom == null ? 0 : bloom.getBitsetSize();
                    this.indexes[number][column] = new Object[] {
                        bloom, reader.readColumnIndex(chunk), reader.readOffsetIndex(chunk)
                    };
                }
            }
        } finally {
            reader.close();
        }
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
            if (chunk.getStatistics() == null || !chunk.getStatistics().isNumNullsSet()) {
                return "it does not say how many nulls each column has";
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

    // The file as Parquet's reader has it. Its end is read at once, and what lies before it in windows.
    private static final class Source implements org.apache.iceberg.shaded.org.apache.parquet.io.InputFile {
        private final InputFile input;
        private final long length;

        Source(InputFile input, long length) {
            this.input = input;
            this.length = length;
        }

        public long getLength() {
            return this.length;
        }

        public SeekableInputStream newStream() {
            return new Windows(this.input, this.length);
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
