// The bytes of row groups in the order in which they are copied, read ahead by several threads within a bound of memory,
// and hashed as they pass. Compiled by Janino, as FileProver.java is.
package icekeeper;

import java.io.EOFException;
import java.io.IOException;
import java.io.InterruptedIOException;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Future;
import java.util.zip.CRC32;
import java.util.zip.CRC32C;
import java.util.zip.Checksum;
import org.apache.iceberg.io.IOUtil;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.BlockMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ColumnChunkMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.io.PositionOutputStream;
import org.apache.iceberg.shaded.org.apache.parquet.io.SeekableInputStream;

public final class Pieces extends SeekableInputStream {
    // What one request fetches at most, and the least memory with which several are under way.
    public static final int LARGEST = 8 * 1024 * 1024 - 64;
    public static final long LEAST = 4L * LARGEST;
    private static final int BUFFER = 64 * 1024;

    private final ExecutorService readers;
    private final long most;
    private final List pieces = new ArrayList();
    private final ArrayDeque ahead = new ArrayDeque();
    // Arrays of eight MiB are used again: a heap takes each of them for a large object, and clears it.
    private final ArrayDeque free = new ArrayDeque();
    private int size;
    private int asked;
    private long held;
    private int current = -1;
    private byte[] bytes;
    private long position;
    // From where on the current piece is not hashed yet.
    private int hashedTo;
    private final CRC32 crc = new CRC32();
    private final CRC32C other = new CRC32C();

    /** `most`: the bytes that may be held at once. */
    public Pieces(ExecutorService readers, long most) {
        this.readers = readers;
        this.most = most;
    }

    /** Adds a row group, whose column chunks follow one another. */
    public void add(InputFile input, BlockMetaData block) {
        List chunks = block.getColumns();
        ColumnChunkMetaData last = (ColumnChunkMetaData) chunks.get(chunks.size() - 1);
        long first = ((ColumnChunkMetaData) chunks.get(0)).getStartingPos();
        long end = last.getStartingPos() + last.getTotalSize();
        for (long from = first; from < end; from += LARGEST) {
            Piece piece = new Piece(input, from, (int) Math.min(LARGEST, end - from), from == first);
            this.size = Math.max(this.size, piece.length);
            this.pieces.add(piece);
        }
    }

    /** Goes to the beginning of the next row group. Positions are those of its file. */
    public void begin() throws IOException {
        this.next();
        if (!this.piece().first) {
            throw new IOException("the row group before was not read to its end");
        }
        this.position = this.piece().from;
        this.hashedTo = 0;
    }

    /** The hash of what was read since the last call. */
    public Long hashed() {
        this.hash();
        long hash = this.crc.getValue() << 32 | this.other.getValue();
        this.crc.reset();
        this.other.reset();
        return Long.valueOf(hash);
    }

    /** Reads so many bytes, only to hash them; `also`: another hash that they go into. */
    public void pass(long count, Checksum also) throws IOException {
        for (long left = count; left > 0;) {
            int some = (int) Math.min(left, this.available());
            also.update(this.bytes, (int) (this.position - this.piece().from), some);
            this.position += some;
            left -= some;
        }
    }

    // Hashes what was read of the current piece: large arrays at once, however little is read at a time.
    private void hash() {
        if (this.bytes != null) {
            int to = (int) Math.min(this.position - this.piece().from, this.piece().length);
            this.crc.update(this.bytes, this.hashedTo, to - this.hashedTo);
            this.other.update(this.bytes, this.hashedTo, to - this.hashedTo);
            this.hashedTo = to;
        }
    }

    // How much there is at the position, one byte at least.
    public int available() throws IOException {
        while (this.position >= this.piece().from + this.piece().length) {
            this.next();
            if (this.piece().first) {
                throw new EOFException("the row group ends before " + this.position);
            }
            this.hashedTo = (int) Math.max(0, Math.min(this.position - this.piece().from, this.piece().length));
        }
        return (int) (this.piece().from + this.piece().length - this.position);
    }

    private Piece piece() {
        return (Piece) this.pieces.get(this.current);
    }

    private void next() throws IOException {
        if (this.bytes != null) {
            this.hash();
            this.held -= this.size;
            this.free.add(this.bytes);
            this.bytes = null;
        }
        if (++this.current >= this.pieces.size()) {
            throw new EOFException("there are no more row groups");
        }
        while (this.asked < this.pieces.size()) {
            final Piece piece = (Piece) this.pieces.get(this.asked);
            if (!this.ahead.isEmpty() && this.held + this.size > this.most) {
                break;
            }
            this.held += this.size;
            this.asked++;
            final byte[] to = this.free.isEmpty() ? new byte[this.size] : (byte[]) this.free.remove();
            this.ahead.add(this.readers.submit(new Callable() {
                public Object call() throws IOException {
                    IOUtil.readFully(piece.input, piece.from, to, 0, piece.length);
                    return to;
                }
            }));
        }
        try {
            this.bytes = (byte[]) ((Future) this.ahead.removeFirst()).get();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw new InterruptedIOException("copying was interrupted");
        } catch (ExecutionException failed) {
            if (failed.getCause() instanceof RuntimeException) {
                throw (RuntimeException) failed.getCause();
            }
            throw new IOException(this.piece().input.location() + " can't be read", failed.getCause());
        }
    }

    public long getPos() {
        return this.position;
    }

    public void seek(long position) throws IOException {
        if (position < this.position) {
            throw new IOException("row groups are read forwards only");
        }
        this.hash();
        this.position = position;
        if (this.bytes != null) {
            this.hashedTo = (int) Math.min(position - this.piece().from, this.piece().length);
        }
    }

    public int read() throws IOException {
        byte[] one = new byte[1];
        this.read(one, 0, 1);
        return one[0] & 255;
    }

    public int read(byte[] to, int offset, int count) throws IOException {
        int some = Math.min(count, this.available());
        System.arraycopy(this.bytes, (int) (this.position - this.piece().from), to, offset, some);
        this.position += some;
        return some;
    }

    public void readFully(byte[] to) throws IOException {
        this.readFully(to, 0, to.length);
    }

    public void readFully(byte[] to, int offset, int count) throws IOException {
        for (int done = 0; done < count;) {
            done += this.read(to, offset + done, count - done);
        }
    }

    public int read(ByteBuffer to) throws IOException {
        byte[] some = new byte[Math.min(to.remaining(), BUFFER)];
        int count = this.read(some, 0, some.length);
        to.put(some, 0, count);
        return count;
    }

    public void readFully(ByteBuffer to) throws IOException {
        byte[] all = new byte[to.remaining()];
        this.readFully(all);
        to.put(all);
    }

    private static final class Piece {
        final InputFile input;
        final long from;
        final int length;
        // Whether a row group begins with it.
        final boolean first;

        Piece(InputFile input, long from, int length, boolean first) {
            this.input = input;
            this.from = from;
            this.length = length;
            this.first = first;
        }
    }

    /** A file to write, as Parquet's writer has it. */
    public static final class Target implements org.apache.iceberg.shaded.org.apache.parquet.io.OutputFile {
        private final OutputFile file;
        private Written written;

        public Target(OutputFile file) {
            this.file = file;
        }

        public PositionOutputStream create(long blockSize) {
            this.written = new Written(this.file.create());
            return this.written;
        }

        public PositionOutputStream createOrOverwrite(long blockSize) {
            this.written = new Written(this.file.createOrOverwrite());
            return this.written;
        }

        /** Parquet's writer leaves it open where writing failed. */
        public void close() throws IOException {
            if (this.written != null) {
                this.written.close();
            }
        }

        public boolean supportsBlockSize() {
            return false;
        }

        public long defaultBlockSize() {
            return 0;
        }
    }

    // Parquet's writer copies 8 KiB at a time.
    private static final class Written extends PositionOutputStream {
        private final org.apache.iceberg.io.PositionOutputStream to;
        private final byte[] buffer = new byte[16 * BUFFER];
        private int filled;
        private long written;
        private boolean closed;

        Written(org.apache.iceberg.io.PositionOutputStream to) {
            this.to = to;
        }

        public long getPos() {
            return this.written + this.filled;
        }

        public void write(int one) throws IOException {
            this.write(new byte[] {(byte) one}, 0, 1);
        }

        public void write(byte[] from, int offset, int count) throws IOException {
            for (int done = 0; done < count;) {
                int some = Math.min(count - done, this.buffer.length - this.filled);
                System.arraycopy(from, offset + done, this.buffer, this.filled, some);
                this.filled += some;
                done += some;
                if (this.filled == this.buffer.length) {
                    this.pass();
                }
            }
        }

        private void pass() throws IOException {
            this.to.write(this.buffer, 0, this.filled);
            this.written += this.filled;
            this.filled = 0;
        }

        public void flush() throws IOException {
            this.pass();
            this.to.flush();
        }

        public void close() throws IOException {
            if (!this.closed) {
                this.closed = true;
                try {
                    this.pass();
                } finally {
                    this.to.close();
                }
            }
        }
    }
}
