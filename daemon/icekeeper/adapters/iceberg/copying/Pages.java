// The pages of a column chunk as they are in the store: whether the footer and the indexes say truly where each one is and
// what it holds, and each is what its checksum says. Compiled by Janino, as FileProver.java is.
package icekeeper;

import java.io.IOException;
import java.io.InputStream;
import java.util.zip.CRC32;
import org.apache.iceberg.shaded.org.apache.parquet.format.PageHeader;
import org.apache.iceberg.shaded.org.apache.parquet.format.PageType;
import org.apache.iceberg.shaded.org.apache.parquet.format.Util;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ColumnChunkMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.internal.column.columnindex.ColumnIndex;
import org.apache.iceberg.shaded.org.apache.parquet.internal.column.columnindex.OffsetIndex;

public final class Pages {
    private final CRC32 crc = new CRC32();
    private boolean damaged;

    /** Whether the chunk read last is not what was written once, whatever the indexes say of it. */
    public boolean damaged() {
        return this.damaged;
    }

    /**
     * Reads a chunk from its first byte to its last, whatever is found: what is wrong with it, null where nothing is.
     * `rows`: of its row group; `flat`: each of them has one value; the indexes are null where there are none.
     */
    public String wrong(
            Pieces from, ColumnChunkMetaData chunk, long rows, boolean flat, ColumnIndex values, OffsetIndex places)
            throws IOException {
        long end = chunk.getStartingPos() + chunk.getTotalSize();
        from.seek(chunk.getStartingPos());
        Chunk bytes = new Chunk(from, end);
        this.damaged = false;
        String wrong;
        try {
            wrong = this.walk(bytes, chunk, rows, flat, values, places);
        } catch (IOException odd) {
            wrong = this.damage("a page header can't be read: " + odd.getMessage());
        } catch (RuntimeException odd) {
            wrong = this.damage("a page header can't be read: " + odd);
        }
        // Of the store, not of the pages.
        if (bytes.failed != null) {
            throw bytes.failed;
        }
        if (bytes.refused != null) {
            throw bytes.refused;
        }
        from.pass(end - from.getPos(), this.crc);
        return wrong;
    }

    private String damage(String what) {
        this.damaged = true;
        return what;
    }

    // What the indexes and the footer say wrongly does not end it: damage may follow.
    private String walk(
            Chunk bytes, ColumnChunkMetaData chunk, long rows, boolean flat, ColumnIndex values, OffsetIndex places)
            throws IOException {
        int pages = 0;
        long counted = 0;
        long row = 0;
        boolean dictionary = false;
        String odd = null;
        for (long at = bytes.from.getPos(); at < bytes.end; at = bytes.from.getPos()) {
            PageHeader header = Util.readPageHeader(bytes);
            int size = header.getCompressed_page_size();
            long body = bytes.from.getPos();
            if (size < 0 || body + size > bytes.end) {
                return this.damage("a page is longer than its chunk");
            }
            this.crc.reset();
            bytes.pass(size, this.crc);
            if (header.isSetCrc() && (int) this.crc.getValue() != header.getCrc()) {
                return this.damage("a page is not what its checksum says");
            }
            if (header.getType() == PageType.DICTIONARY_PAGE) {
                if (dictionary || pages > 0 || !chunk.hasDictionaryPage()) {
                    odd = odd != null ? odd : "a dictionary is not where the footer says";
                }
                dictionary = true;
            } else if (header.getType() == PageType.DATA_PAGE || header.getType() == PageType.DATA_PAGE_V2) {
                boolean newer = header.getType() == PageType.DATA_PAGE_V2;
                if (pages == 0 && at != chunk.getFirstDataPageOffset()) {
                    odd = odd != null ? odd : "its first page is not where the footer says";
                }
                if (places != null) {
                    boolean said = pages < places.getPageCount() && places.getOffset(pages) == at
                        && places.getCompressedPageSize(pages) == body - at + size;
                    if (!said || (row >= 0 && places.getFirstRowIndex(pages) != row)) {
                        odd = odd != null ? odd : "its offset index does not say where its pages are";
                    }
                }
                int some = newer ? header.getData_page_header_v2().getNum_values()
                    : header.getData_page_header().getNum_values();
                pages++;
                counted += some;
                // Of lists and maps only newer pages say how many rows they have.
                long more = newer ? header.getData_page_header_v2().getNum_rows() : some;
                row = row >= 0 && (newer || flat) ? row + more : -1;
            } else {
                odd = odd != null ? odd : "it has a page of another kind";
            }
        }
        if (counted != chunk.getValueCount()) {
            return this.damage("its pages have " + counted + " values, the footer says " + chunk.getValueCount());
        }
        if (row >= 0 && row != rows) {
            return this.damage("its pages have " + row + " rows, the footer says " + rows);
        }
        if (odd != null) {
            return odd;
        }
        if (dictionary != chunk.hasDictionaryPage()) {
            return "a dictionary is not where the footer says";
        }
        if (places != null && places.getPageCount() != pages) {
            return "its offset index does not say where its pages are";
        }
        return values != null && values.getNullPages().size() != pages ? "its column index is of other pages" : null;
    }

    // What is left of the chunk, for Parquet's reader of headers.
    private static final class Chunk extends InputStream {
        final Pieces from;
        final long end;
        IOException failed;
        RuntimeException refused;

        Chunk(Pieces from, long end) {
            this.from = from;
            this.end = end;
        }

        void pass(int count, CRC32 crc) throws IOException {
            try {
                this.from.pass(count, crc);
            } catch (IOException failed) {
                this.failed = failed;
                throw failed;
            } catch (RuntimeException refused) {
                this.refused = refused;
                throw refused;
            }
        }

        public int read() throws IOException {
            byte[] one = new byte[1];
            return this.read(one, 0, 1) < 0 ? -1 : one[0] & 255;
        }

        public int read(byte[] to, int offset, int count) throws IOException {
            int some = (int) Math.min(count, this.end - this.from.getPos());
            try {
                return some <= 0 ? -1 : this.from.read(to, offset, some);
            } catch (IOException failed) {
                this.failed = failed;
                throw failed;
            } catch (RuntimeException refused) {
                this.refused = refused;
                throw refused;
            }
        }
    }
}
