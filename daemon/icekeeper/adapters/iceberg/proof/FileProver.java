// Checks files, many at once, in the JVM of the session: thousands of calls from Python would take minutes. Spark's own
// compiler (Janino) compiles this text: it knows neither lambdas nor inferred types, hence the casts. What the answers
// mean is decided in Python, in files.py.
package icekeeper;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadFactory;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.iceberg.ContentFile;
import org.apache.iceberg.DeleteFile;
import org.apache.iceberg.FileContent;
import org.apache.iceberg.FileFormat;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.PartitionSpec;
import org.apache.iceberg.Table;
import org.apache.iceberg.TableScan;
import org.apache.iceberg.deletes.PositionDeleteIndex;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.IOUtil;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.SeekableInputStream;
import org.apache.iceberg.shaded.org.apache.orc.impl.ReaderImpl;
import org.apache.iceberg.shaded.org.apache.parquet.format.FileMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.format.RowGroup;
import org.apache.iceberg.shaded.org.apache.parquet.format.Util;
import org.apache.iceberg.types.Conversions;
import org.apache.iceberg.types.Type;

public final class FileProver {
    // What the first read of a file fetches of its end: nearly every footer, in one request.
    private static final long SMALL_TAIL = 16 * 1024;
    private static final long LARGE_TAIL = 1024 * 1024;
    // A footer that would be larger than this is taken for damage; so much of many files at a time fits into a heap.
    private static final long LARGEST_FOOTER = 32 * 1024 * 1024;
    // Up to here the deletion vectors of a file are read at once, with all that follows them.
    private static final long VECTORS_AT_ONCE = 8 * 1024 * 1024;
    private static final int ATTEMPT_GROWTH = 16;
    // So many of them are read at a time, for the heap.
    private static final Semaphore LARGE = new Semaphore(4);

    private final Table table;
    private final FileIO io;
    private final List files = new ArrayList();
    // The column of the event time and its type, null where the bounds of no column matter.
    private Integer column;
    private Type columnType;
    // What the files have to fit; null where that does not matter.
    private SchemaFit fit;
    // The numbers of files at one path, of one length: deletion vectors share a file.
    private final Map shared = new LinkedHashMap();
    private volatile Throwable failure;

    public FileProver(Table table) {
        this.table = table;
        this.io = table.io();
    }

    // Takes the data and delete files that the scan would read; `column`: the id of the one whose bounds are described.
    public void plan(TableScan scan, int column, SchemaFit fit) throws IOException {
        this.column = Integer.valueOf(column);
        this.columnType = this.table.schema().findType(column);
        this.fit = fit;
        Set seen = new HashSet();
        CloseableIterable tasks = scan.planFiles();
        try {
            for (Iterator each = tasks.iterator(); each.hasNext();) {
                FileScanTask task = (FileScanTask) each.next();
                this.add((ContentFile) task.file());
                for (Iterator deletes = task.deletes().iterator(); deletes.hasNext();) {
                    ContentFile file = (ContentFile) deletes.next();
                    if (seen.add(file.location() + "#" + offset(file))) {
                        this.add(file);
                    }
                }
            }
        } finally {
            tasks.close();
        }
    }

    // Takes the files that are chosen for a rewrite, as the scan has them where there is one.
    public void planChosen(TableScan scan, SchemaFit fit) throws IOException {
        this.fit = fit;
        if (scan == null) {
            this.addAll(fit.chosen().values());
            return;
        }
        CloseableIterable tasks = scan.planFiles();
        try {
            for (Iterator each = tasks.iterator(); each.hasNext();) {
                ContentFile file = (ContentFile) ((FileScanTask) each.next()).file();
                if (fit.chosen().containsKey(file.location())) {
                    this.add(fit.judge(file));
                }
            }
        } finally {
            tasks.close();
        }
    }

    public void addAll(Iterable some) {
        for (Iterator each = some.iterator(); each.hasNext();) {
            this.add((ContentFile) each.next());
        }
    }

    private void add(ContentFile file) {
        String key = file.fileSizeInBytes() + "#" + file.location();
        List sharing = (List) this.shared.get(key);
        if (sharing == null) {
            sharing = new ArrayList();
            this.shared.put(key, sharing);
        }
        sharing.add(Integer.valueOf(this.files.size()));
        this.files.add(file);
    }

    // Writes what the manifests say of each file, as a JSON array per file, in the order in which files are numbered.
    public void describe(String output) throws IOException {
        List rows = new ArrayList();
        for (int number = 0; number < this.files.size(); number++) {
            ContentFile file = (ContentFile) this.files.get(number);
            PartitionSpec spec = (PartitionSpec) this.table.specs().get(Integer.valueOf(file.specId()));
            boolean fits = this.hasToFit(file);
            String[] judged = fits ? this.fit.judged(file) : new String[2];
            rows.add(new Object[] {
                file.location(), Long.valueOf(offset(file)), this.partition(spec, file),
                file.content().name(), file.format().name(), Long.valueOf(file.fileSizeInBytes()),
                Long.valueOf(file.recordCount()), Boolean.valueOf(file.keyMetadata() != null),
                this.bound(file.lowerBounds()), this.bound(file.upperBounds()),
                fits ? this.fit.identity() : "", judged[0], judged[1]
            });
        }
        new ObjectMapper().writeValue(new File(output), rows);
    }

    // The one under which it was chosen for a rewrite, else its own.
    private String partition(PartitionSpec spec, ContentFile file) {
        String chosen = this.fit == null ? null : this.fit.partition(file);
        return chosen == null ? SchemaFit.path(spec, file.partition()) : chosen;
    }

    private boolean hasToFit(ContentFile file) {
        return this.fit != null && file.content() == FileContent.DATA;
    }

    // A bound of the column by a manifest, as Iceberg counts it; null where it has none.
    private Number bound(Map bounds) {
        ByteBuffer bytes = bounds == null || this.column == null ? null : (ByteBuffer) bounds.get(this.column);
        Object value = bytes == null ? null : Conversions.fromByteBuffer(this.columnType, bytes);
        return value instanceof Number ? (Number) value : null;
    }

    // How many paths the files are at.
    public int paths() {
        return this.shared.size();
    }

    // Of the files at so many paths, from the first on: reads those of these numbers (separated by commas), and asks the
    // length of the others on demand. Writes a JSON array for each answer that is more than "it is there, with its
    // length": number, fault, rows, bytes, text.
    // A failure that is none of a file's own, such as a store that is down, ends it and is thrown.
    public void prove(String read, boolean lengths, int first, int most, int threads, String output) throws Throwable {
        final Set numbers = new HashSet();
        String[] named = read.isEmpty() ? new String[0] : read.split(",");
        for (int place = 0; place < named.length; place++) {
            numbers.add(Integer.valueOf(named[place]));
        }
        List work = new ArrayList();
        List paths = new ArrayList(this.shared.values());
        for (int place = first; place < Math.min(first + most, paths.size()); place++) {
            final List sharing = (List) paths.get(place);
            if (!lengths && Collections.disjoint(sharing, numbers)) {
                continue;
            }
            work.add(new Callable() {
                public Object call() {
                    return FileProver.this.check(sharing, numbers);
                }
            });
        }
        ExecutorService pool = Executors.newFixedThreadPool(Math.max(1, Math.min(threads, work.size())), new Daemons());
        List answers = new ArrayList();
        try {
            for (Iterator done = pool.invokeAll(work).iterator(); done.hasNext();) {
                answers.addAll((Collection) ((Future) done.next()).get());
            }
        } finally {
            pool.shutdownNow();
        }
        if (this.failure != null) {
            throw this.failure;
        }
        new ObjectMapper().writeValue(new File(output), answers);
    }

    // The answers for the files of these numbers, which are at one path.
    private List check(List sharing, Set numbers) {
        List answers = new ArrayList();
        if (this.failure != null) {
            return answers;
        }
        ContentFile first = (ContentFile) this.files.get(((Integer) sharing.get(0)).intValue());
        List toRead = new ArrayList();
        for (Iterator each = sharing.iterator(); each.hasNext();) {
            Integer number = (Integer) each.next();
            if (numbers.contains(number)) {
                toRead.add(number);
            }
        }
        try {
            if (toRead.isEmpty()) {
                long length = this.io.newInputFile(first.location()).getLength();
                if (length != first.fileSizeInBytes()) {
                    throw new Fault("length", length, null);
                }
            } else {
                this.read(first, toRead, answers);
            }
        } catch (Throwable error) {
            Fault fault = this.faultOf(first, error);
            if (fault == null) {
                if (this.failure == null) {
                    this.failure = error;
                }
                return answers;
            }
            answers.clear();
            for (Iterator each = sharing.iterator(); each.hasNext();) {
                answers.add(fault.answer((Integer) each.next()));
            }
        }
        return answers;
    }

    // What is wrong with the file itself; null where the error says nothing about the file.
    private Fault faultOf(ContentFile file, Throwable error) {
        if (error instanceof Fault && ((Fault) error).kind != null) {
            return (Fault) error;
        }
        try {
            // Another request, for only few files are damaged: a store has many words for "missing" and "shorter".
            InputFile input = this.io.newInputFile(file.location());
            if (!input.exists()) {
                return new Fault("missing", -1, null);
            }
            long length = input.getLength();
            if (length != file.fileSizeInBytes()) {
                return new Fault("length", length, null);
            }
        } catch (Throwable unknown) {
            return null;
        }
        // Hadoop's own checksums, beside files of a local file system.
        boolean damaged = error.getClass().getName().endsWith(".ChecksumException");
        return damaged ? new Fault("unreadable", -1, error.getMessage()) : null;
    }

    private void read(ContentFile first, List toRead, List answers) throws Throwable {
        InputFile input = this.io.newInputFile(first.location(), first.fileSizeInBytes());
        if (first.format() == FileFormat.PUFFIN) {
            this.readVectors(input, first.fileSizeInBytes(), toRead, answers);
            return;
        }
        long rows;
        String misfit = null;
        if (first.format() == FileFormat.ORC) {
            rows = orcRows(input, first.fileSizeInBytes());
        } else {
            FileMetaData footer = parquetFooter(input, first.fileSizeInBytes());
            rows = footer == null ? -1 : rowsOf(footer);
            misfit = footer == null || !this.hasToFit(first) ? null : this.fit.byFooter(footer, input, first);
        }
        String fault = rows < 0 ? "encrypted" : misfit == null ? null : "schema_mismatch";
        for (Iterator each = toRead.iterator(); each.hasNext();) {
            answers.add(new Object[] {each.next(), fault, Long.valueOf(rows), null, misfit});
        }
    }

    private void readVectors(InputFile input, long length, List toRead, List answers) throws Throwable {
        long from = length;
        for (Iterator each = toRead.iterator(); each.hasNext();) {
            from = Math.min(from, offset((ContentFile) this.files.get(((Integer) each.next()).intValue())));
        }
        byte[] tail = null;
        if (length - from <= VECTORS_AT_ONCE) {
            tail = tail(input, length, length - from);
        } else if (this.io.newInputFile(input.location()).getLength() != length) {
            throw new Fault(null, -1, null);
        }
        for (Iterator each = toRead.iterator(); each.hasNext();) {
            Integer number = (Integer) each.next();
            DeleteFile vector = (DeleteFile) this.files.get(number.intValue());
            Long size = vector.contentSizeInBytes();
            long start = offset(vector);
            if (size == null || size.longValue() < 0 || start < 0 || start + size.longValue() > length) {
                throw new Fault("unreadable", -1, "its deletion vector does not lie in it");
            }
            byte[] blob = new byte[size.intValue()];
            if (tail != null) {
                System.arraycopy(tail, (int) (start - from), blob, 0, blob.length);
            } else {
                SeekableInputStream stream = input.newStream();
                try {
                    stream.seek(start);
                    IOUtil.readFully(stream, blob, 0, blob.length);
                } finally {
                    stream.close();
                }
            }
            Object[] answer;
            try {
                long rows = PositionDeleteIndex.deserialize(blob, vector).cardinality();
                answer = new Object[] {number, null, Long.valueOf(rows), null, null};
            } catch (RuntimeException error) {
                // Iceberg checks length, checksum and cardinality, and says which of them it was.
                boolean counted = String.valueOf(error.getMessage()).startsWith("Invalid cardinality");
                answer = new Object[] {number, counted ? "count" : "unreadable", null, null, error.getMessage()};
            }
            answers.add(answer);
        }
    }

    // The footer of a Parquet file; null where it is encrypted.
    private static FileMetaData parquetFooter(InputFile input, long length) throws Throwable {
        byte[] tail = tail(input, length, Math.min(Math.max(SMALL_TAIL, length / 1024), LARGE_TAIL));
        if (tail.length < 12) {
            throw new Fault("unreadable", -1, "it is too short for a Parquet file");
        }
        String magic = new String(tail, tail.length - 4, 4, "ISO-8859-1");
        if (magic.equals("PARE")) {
            return null;
        }
        if (!magic.equals("PAR1")) {
            throw new Fault("unreadable", -1, "it does not end as a Parquet file does");
        }
        int footer = ByteBuffer.wrap(tail).order(ByteOrder.LITTLE_ENDIAN).getInt(tail.length - 8);
        if (footer <= 0 || footer > Math.min(length - 12, LARGEST_FOOTER)) {
            throw new Fault("unreadable", -1, "its footer would be " + footer + " bytes long");
        }
        if (footer + 8 <= tail.length) {
            return parsed(tail, footer);
        }
        LARGE.acquire();
        try {
            return parsed(tail(input, length, footer + 8), footer);
        } finally {
            LARGE.release();
        }
    }

    private static FileMetaData parsed(byte[] tail, int footer) throws Fault {
        try {
            return Util.readFileMetaData(new ByteArrayInputStream(tail, tail.length - 8 - footer, footer));
        } catch (Exception error) {
            throw new Fault("unreadable", -1, "its footer can't be parsed: " + error.getMessage());
        }
    }

    private static long rowsOf(FileMetaData metadata) throws Fault {
        long rows = 0;
        for (Iterator groups = metadata.getRow_groups().iterator(); groups.hasNext();) {
            rows += ((RowGroup) groups.next()).getNum_rows();
        }
        if (rows != metadata.getNum_rows()) {
            throw new Fault("unreadable", -1,
                "its footer says " + metadata.getNum_rows() + " rows, its row groups " + rows);
        }
        return rows;
    }

    // The rows of an ORC file by its footer. How long that is, only its parts say: more is read where it was too little.
    private static long orcRows(InputFile input, long length) throws Throwable {
        for (long most = Math.max(SMALL_TAIL, length / 1024);; most *= ATTEMPT_GROWTH) {
            boolean large = most > LARGE_TAIL;
            if (large) {
                LARGE.acquire();
            }
            try {
                byte[] tail = tail(input, length, Math.min(most, LARGEST_FOOTER));
                try {
                    return ReaderImpl.extractFileTail(ByteBuffer.wrap(tail)).getFooter().getNumberOfRows();
                } catch (Exception error) {
                    if (tail.length == length || most >= LARGEST_FOOTER) {
                        throw new Fault("unreadable", -1, "its footer can't be parsed: " + error.getMessage());
                    }
                }
            } finally {
                if (large) {
                    LARGE.release();
                }
            }
        }
    }

    // The last bytes of a file, at most so many, in one request that asks for all up to its end: one more or one less
    // than there should be, and the file has another length.
    private static byte[] tail(InputFile input, long length, long most) throws Throwable {
        int size = (int) Math.min(length, most);
        byte[] bytes = new byte[size + 1];
        SeekableInputStream stream = input.newStream();
        int found;
        try {
            stream.seek(length - size);
            found = IOUtil.readRemaining(stream, bytes, 0, size + 1);
        } finally {
            stream.close();
        }
        if (found != size) {
            throw new Fault(null, -1, "it ends elsewhere than its manifest says");
        }
        byte[] tail = new byte[size];
        System.arraycopy(bytes, 0, tail, 0, size);
        return tail;
    }

    private static long offset(ContentFile file) {
        Long offset = file instanceof DeleteFile ? ((DeleteFile) file).contentOffset() : null;
        return offset == null ? -1 : offset.longValue();
    }

    // Something that is wrong with a file. Without a kind: its length is not known yet.
    private static final class Fault extends Exception {
        final String kind;
        final long bytes;

        Fault(String kind, long bytes, String text) {
            super(text);
            this.kind = kind;
            this.bytes = bytes;
        }

        Object[] answer(Integer number) {
            return new Object[] {number, this.kind, null, this.bytes < 0 ? null : Long.valueOf(this.bytes), getMessage()};
        }
    }

    private static final class Daemons implements ThreadFactory {
        public Thread newThread(Runnable work) {
            Thread thread = new Thread(work, "icekeeper-files");
            thread.setDaemon(true);
            return thread;
        }
    }
}
