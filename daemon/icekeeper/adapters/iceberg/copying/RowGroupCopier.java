// Copies the row groups of Parquet files into fewer files as they are, in the JVM of the session. The bytes of each column
// chunk are hashed while they are copied, and again as they are read back from the new file. Compiled by Janino, as
// FileProver.java is. What may be copied: RowGroups.java; what is read, and how much at a time: Pieces.java.
package icekeeper;

import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.DataFiles;
import org.apache.iceberg.FileFormat;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.MetricsConfig;
import org.apache.iceberg.RewriteFiles;
import org.apache.iceberg.ScanTaskGroup;
import org.apache.iceberg.Schema;
import org.apache.iceberg.SchemaParser;
import org.apache.iceberg.Snapshot;
import org.apache.iceberg.StructLike;
import org.apache.iceberg.Table;
import org.apache.iceberg.TableProperties;
import org.apache.iceberg.TableScan;
import org.apache.iceberg.TableUtil;
import org.apache.iceberg.actions.RewriteFileGroup;
import org.apache.iceberg.encryption.PlaintextEncryptionManager;
import org.apache.iceberg.exceptions.CommitFailedException;
import org.apache.iceberg.exceptions.ValidationException;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.io.OutputFileFactory;
import org.apache.iceberg.parquet.ParquetSchemaUtil;
import org.apache.iceberg.parquet.ParquetUtil;
import org.apache.iceberg.shaded.org.apache.parquet.column.values.bloomfilter.BloomFilter;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.ParquetFileWriter;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.BlockMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.metadata.ColumnChunkMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.internal.column.columnindex.ColumnIndex;
import org.apache.iceberg.shaded.org.apache.parquet.internal.column.columnindex.OffsetIndex;
import org.apache.iceberg.shaded.org.apache.parquet.schema.MessageType;
import org.apache.iceberg.types.TypeUtil;
import org.apache.iceberg.types.Types;
import org.apache.iceberg.util.TableScanUtil;

public final class RowGroupCopier {
    private static final int READERS = 16;
    private static final int WRITERS = 4;
    // One part in so many of the heap is read ahead.
    private static final int SHARE = 8;
    private static final long QUIET_S = 8;

    private final Table table;
    private final Snapshot snapshot;
    private final Schema wanted;
    private final MessageType stored;
    private final long smallest;
    private final List outputs = new ArrayList();
    private final Map replaced = new LinkedHashMap();
    // The ids of the columns of which footers don't say all.
    private final Set columns = new HashSet();
    private long room;
    // Whether a commit may have landed, and whether all threads have ended.
    private boolean open = true;
    private boolean quiet = true;

    /** `smallest`: the size of a row group, in bytes, from which copying pays; footers may take a `share`th of the heap. */
    public RowGroupCopier(Table table, long smallest, long share) {
        this.table = table;
        this.snapshot = table.currentSnapshot();
        // As Parquet has it: names that it can't have are written otherwise, and comments are left out.
        this.stored = ParquetSchemaUtil.convert(table.schema(), "table");
        this.wanted = ParquetSchemaUtil.convert(this.stored);
        this.smallest = smallest;
        this.room = Runtime.getRuntime().maxMemory() / share;
    }

    /**
     * Takes the files of a group of Iceberg's planner; or says why they can't be copied, and null where they are taken.
     * `largest`: the size of a file from which it is split.
     */
    public String take(RewriteFileGroup group, int lookback, long largest) throws Exception {
        if (TableUtil.formatVersion(this.table) > 2) {
            return "format version 3 has ids of rows that would be lost";
        }
        if (!(this.table.encryption() instanceof PlaintextEncryptionManager)) {
            return "the table is encrypted";
        }
        Map files = new LinkedHashMap();
        for (Iterator each = group.fileScanTasks().iterator(); each.hasNext();) {
            FileScanTask task = (FileScanTask) each.next();
            DataFile file = (DataFile) task.file();
            String odd = file.format() != FileFormat.PARQUET ? "it is no Parquet file"
                : !task.deletes().isEmpty() ? "deletes apply to it"
                : file.specId() != this.table.spec().specId() ? "it is of an older partition spec"
                : file.keyMetadata() != null ? "it is encrypted"
                : files.put(file.location(), file) != null ? "the table lists it twice" : null;
            if (odd != null) {
                return file.location() + ": " + odd;
            }
        }
        Map found = new HashMap();
        AtomicLong left = new AtomicLong(this.room);
        String refusal = this.read(files, found, left);
        refusal = refusal != null ? refusal : this.arrange(group, files, found, lookback, largest);
        // The footers of what is refused are not kept.
        this.room = refusal == null ? left.get() : this.room;
        return refusal;
    }

    // Reads the footers side by side; why one of the files can't be copied.
    private String read(Map files, final Map found, final AtomicLong room) throws Exception {
        List work = new ArrayList();
        for (Iterator each = files.values().iterator(); each.hasNext();) {
            final DataFile file = (DataFile) each.next();
            work.add(new Callable() {
                public Object call() {
                    try {
                        InputFile input = RowGroupCopier.this.table.io().newInputFile(file.location(), file.fileSizeInBytes());
                        return new RowGroups(input, file.fileSizeInBytes(), room);
                    } catch (RowGroups.TooLarge tooLarge) {
                        return tooLarge.getMessage();
                    } catch (Exception unread) {
                        // The usual way finds out why.
                        return "its footer can't be read: " + unread;
                    }
                }
            });
        }
        ExecutorService pool = Executors.newFixedThreadPool(READERS);
        try {
            List answers = new ArrayList();
            for (Iterator each = work.iterator(); each.hasNext();) {
                answers.add(pool.submit((Callable) each.next()));
            }
            return this.judge(files, found, answers);
        } finally {
            pool.shutdownNow();
        }
    }

    // Why one of the files can't be copied, as soon as that is known.
    private String judge(Map files, Map found, List answers) throws Exception {
        String codec = (String) this.table.properties().get(TableProperties.PARQUET_COMPRESSION);
        RowGroups first = null;
        long groups = 0;
        long bytes = 0;
        Iterator answer = answers.iterator();
        for (Iterator each = files.values().iterator(); each.hasNext();) {
            DataFile file = (DataFile) each.next();
            Object read = ((Future) answer.next()).get();
            String odd = read instanceof String ? (String) read : null;
            if (odd == null) {
                RowGroups one = (RowGroups) read;
                if (one.schema().getColumns().isEmpty() || one.indexes.length == 0) {
                    return file.location() + ": it has no row groups";
                }
                first = first == null ? one : first;
                codec = codec != null ? codec : codecOf(one);
                try {
                    odd = one.refusal(this.wanted, this.stored, codec.toUpperCase(Locale.ROOT), this.smallest);
                } catch (RuntimeException unknown) {
                    odd = "it can't be judged: " + unknown;
                }
                if (odd == null && !one.schema().getFields().equals(first.schema().getFields())) {
                    odd = "its columns are stored otherwise than those of other files";
                } else if (odd == null && one.rows() != file.recordCount()) {
                    odd = "it has " + one.rows() + " rows, and its manifest claims " + file.recordCount();
                }
                groups += one.indexes.length;
                bytes += one.bytes();
                found.put(file.location(), one);
            }
            if (odd != null) {
                return file.location() + ": " + odd;
            }
        }
        return bytes < groups * this.smallest ? "row groups are of " + bytes / Math.max(1, groups) / 1024 + " KiB" : null;
    }

    private static String codecOf(RowGroups file) {
        return ((ColumnChunkMetaData) file.block(0).getColumns().get(0)).getCodec().name();
    }

    // The outputs of a group: what each task of a rewrite would read becomes a file.
    private String arrange(RewriteFileGroup group, Map files, Map found, int lookback, long largest) throws IOException {
        List arranged = new ArrayList();
        int left = 0;
        for (Iterator each = found.values().iterator(); each.hasNext();) {
            left += ((RowGroups) each.next()).indexes.length;
        }
        List bins = TableScanUtil.planTaskGroups(group.fileScanTasks(), group.inputSplitSize(), lookback, 0);
        for (Iterator each = bins.iterator(); each.hasNext();) {
            Output output = null;
            for (Iterator tasks = ((ScanTaskGroup) each.next()).tasks().iterator(); tasks.hasNext();) {
                FileScanTask task = (FileScanTask) tasks.next();
                RowGroups file = (RowGroups) found.get(task.file().location());
                for (int number = 0; number < file.indexes.length; number++) {
                    long start = file.block(number).getStartingPos();
                    if (start >= task.start() && start < task.start() + task.length()) {
                        output = output == null ? new Output(((DataFile) task.file()).partition()) : output;
                        output.parts.add(new Object[] {file, Integer.valueOf(number), task.file()});
                        left--;
                    }
                }
            }
            if (output != null) {
                arranged.add(output);
            }
        }
        if (left != 0) {
            return "its row groups lie across the splits of their files";
        }
        Map places = new HashMap();
        for (Iterator each = arranged.iterator(); each.hasNext();) {
            Output output = (Output) each.next();
            long size = 0;
            for (int number = 0; number < output.parts.size(); number++) {
                size += output.block(number).getCompressedSize();
                Object location = ((DataFile) ((Object[]) output.parts.get(number))[2]).location();
                Object before = places.put(location, output);
                places.put("split " + location, Boolean.valueOf(
                    Boolean.TRUE.equals(places.get("split " + location)) || (before != null && before != output)));
            }
            if (size > largest) {
                return "its row groups are larger than files may be";
            }
        }
        Set columns = this.uncertain(found.values());
        Map claims = this.claimed(files, columns);
        MetricsConfig modes = MetricsConfig.forTable(this.table);
        Map fields = TypeUtil.indexById(this.table.schema().asStruct());
        for (Iterator some = files.keySet().iterator(); some.hasNext();) {
            Object location = some.next();
            boolean split = Boolean.TRUE.equals(places.get("split " + location));
            Set unsaid = ((RowGroups) found.get(location)).unsaid();
            for (Iterator each = columns.iterator(); each.hasNext();) {
                Integer id = (Integer) each.next();
                Types.NestedField field = (Types.NestedField) fields.get(id);
                DataFile file = (DataFile) claims.get(location);
                Long nulls = CopiedMetrics.claimed(file, id, CopiedMetrics.NULLS);
                Long nans = CopiedMetrics.claimed(file, id, CopiedMetrics.NANS);
                // Rewriting counts them.
                if (unsaid.contains(id) && !modes.columnMode(id.intValue()).toString().equals("none")
                        && (nulls == null || (nulls.longValue() > 0 && split))) {
                    return location + ": it is not known how many nulls " + field.name() + " has in each file";
                }
                // Bounds without a count of NaN would let readers take a file for one without any.
                if (CopiedMetrics.isUncertain(field) && (nans == null || (nans.longValue() > 0 && split))) {
                    return location + ": it is not known how many NaN " + field.name() + " has in each file";
                }
            }
        }
        OutputFileFactory names = OutputFileFactory.builderFor(this.table, this.outputs.size(), 0)
            .format(FileFormat.PARQUET).suffix("copied").build();
        for (Iterator each = arranged.iterator(); each.hasNext();) {
            Output output = (Output) each.next();
            output.file = (this.table.spec().isUnpartitioned() ? names.newOutputFile()
                : names.newOutputFile(this.table.spec(), output.partition)).encryptingOutputFile();
        }
        this.columns.addAll(columns);
        this.outputs.addAll(arranged);
        this.replaced.putAll(files);
        return null;
    }

    /** How many files go, how many come, and how many bytes go. */
    public long[] sums() {
        long bytes = 0;
        for (Iterator each = this.replaced.values().iterator(); each.hasNext();) {
            bytes += ((DataFile) each.next()).fileSizeInBytes();
        }
        return new long[] {this.replaced.size(), this.outputs.size(), bytes};
    }

    public List paths() {
        List paths = new ArrayList();
        for (Iterator each = this.outputs.iterator(); each.hasNext();) {
            paths.add(((Output) each.next()).file.location());
        }
        return paths;
    }

    /** Appends the paths of the files that come to a file, one a line. */
    public void writePaths(String file) throws IOException {
        BufferedWriter lines = Files.newBufferedWriter(
            Paths.get(file, new String[0]), StandardCharsets.UTF_8,
            new java.nio.file.OpenOption[] {java.nio.file.StandardOpenOption.APPEND});
        try {
            for (Iterator each = this.paths().iterator(); each.hasNext();) {
                lines.write(each.next() + "\n");
            }
        } finally {
            lines.close();
        }
    }

    /**
     * Writes the files and reads them back: why they are not to be committed after all, null where they may be. Throws
     * IOException where a chunk is not what was read, and where one is damaged in the file that it came of.
     */
    public String copy() throws Throwable {
        final ExecutorService readers = Executors.newFixedThreadPool(READERS);
        long ahead = Runtime.getRuntime().maxMemory() / SHARE;
        int side = (int) Math.max(1, Math.min(Math.min(WRITERS, this.outputs.size()), ahead / Pieces.LEAST));
        // More than its share of the readers can fetch does not help a file.
        final long most = Math.min(ahead / side, (READERS / side + 2L) * Pieces.LARGEST);
        ExecutorService writers = Executors.newFixedThreadPool(side);
        final Map claims = this.claimed(this.replaced, this.columns);
        List work = new ArrayList();
        for (Iterator each = this.outputs.iterator(); each.hasNext();) {
            final Output output = (Output) each.next();
            work.add(writers.submit(new Callable() {
                public Object call() throws Exception {
                    RowGroupCopier.this.write(output, readers, most);
                    return RowGroupCopier.this.readBack(output, readers, most, claims);
                }
            }));
        }
        this.quiet = false;
        try {
            // All of them: what one file only says wrongly must not hide the damage of another.
            String odd = null;
            for (Iterator each = work.iterator(); each.hasNext();) {
                String other = (String) ((Future) each.next()).get();
                odd = odd != null ? odd : other;
            }
            return odd;
        } catch (ExecutionException failed) {
            throw failed.getCause();
        } finally {
            writers.shutdownNow();
            readers.shutdownNow();
            this.quiet = ended(writers) && ended(readers);
        }
    }

    // Waits also where the call is interrupted: what is still being written can't be deleted.
    private static boolean ended(ExecutorService pool) {
        long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(QUIET_S);
        boolean interrupted = false;
        boolean ended = false;
        while (!ended && System.nanoTime() < until) {
            try {
                ended = pool.awaitTermination(until - System.nanoTime(), TimeUnit.NANOSECONDS);
            } catch (InterruptedException again) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        return ended;
    }

    private void write(Output output, ExecutorService readers, long most) throws IOException {
        MessageType schema = output.source(0).schema();
        Pieces from = new Pieces(readers, most);
        for (int number = 0; number < output.parts.size(); number++) {
            from.add(output.source(number).input, output.block(number));
        }
        Pieces.Target target = new Pieces.Target(output.file);
        ParquetFileWriter writer = new ParquetFileWriter(
            target, schema, ParquetFileWriter.Mode.CREATE, TableProperties.PARQUET_ROW_GROUP_SIZE_BYTES_DEFAULT,
            0, Integer.MAX_VALUE, Integer.MAX_VALUE, true);
        try {
            writer.start();
            for (int number = 0; number < output.parts.size(); number++) {
                BlockMetaData block = output.block(number);
                Object[][] indexes = output.source(number).indexes[output.place(number)];
                from.begin();
                writer.startBlock(block.getRowCount());
                for (int column = 0; column < block.getColumns().size(); column++) {
                    ColumnChunkMetaData chunk = (ColumnChunkMetaData) block.getColumns().get(column);
                    from.hashed();
                    writer.appendColumnChunk(
                        schema.getColumnDescription(chunk.getPath().toArray()), from, chunk, (BloomFilter) indexes[column][0],
                        (ColumnIndex) indexes[column][1], (OffsetIndex) indexes[column][2]);
                    output.hashes.add(from.hashed());
                }
                writer.endBlock();
            }
            writer.end(this.keyValues(output));
        } finally {
            try {
                writer.close();
            } finally {
                target.close();
            }
        }
    }

    // What all of its sources say, but for what is of their own rows alone; and the schema, as Iceberg's writers have it.
    private Map keyValues(Output output) {
        Map common = new HashMap(output.source(0).footer.getFileMetaData().getKeyValueMetaData());
        for (int number = 1; number < output.parts.size(); number++) {
            common.entrySet().retainAll(output.source(number).footer.getFileMetaData().getKeyValueMetaData().entrySet());
        }
        common.remove("pandas");
        common.put("iceberg.schema", SchemaParser.toJson(this.table.schema()));
        return common;
    }

    // Proves that what is in the store by now is what was read, and describes it. What is wrong with its pages is so in the
    // file that they came of.
    private String readBack(Output output, ExecutorService readers, long most, Map claims) throws IOException {
        String location = output.file.location();
        long length = this.table.io().newInputFile(location).getLength();
        RowGroups file = new RowGroups(this.table.io().newInputFile(location, length), length, null);
        if (file.indexes.length != output.parts.size()) {
            throw new IOException(location + " has " + file.indexes.length + " row groups, not " + output.parts.size());
        }
        Pieces from = new Pieces(readers, most);
        for (int number = 0; number < file.indexes.length; number++) {
            from.add(file.input, file.block(number));
        }
        Iterator hashes = output.hashes.iterator();
        Pages pages = new Pages();
        String refusal = null;
        for (int number = 0; number < file.indexes.length; number++) {
            BlockMetaData before = output.block(number);
            BlockMetaData after = file.block(number);
            if (before.getRowCount() != after.getRowCount() || before.getColumns().size() != after.getColumns().size()) {
                throw new IOException("row group " + number + " of " + location + " is not what was copied");
            }
            from.begin();
            for (int column = 0; column < after.getColumns().size(); column++) {
                ColumnChunkMetaData one = (ColumnChunkMetaData) before.getColumns().get(column);
                ColumnChunkMetaData other = (ColumnChunkMetaData) after.getColumns().get(column);
                Object[] indexes = file.indexes[number][column];
                boolean flat = file.schema().getColumnDescription(other.getPath().toArray()).getMaxRepetitionLevel() == 0;
                from.hashed();
                String odd = pages.wrong(
                    from, other, after.getRowCount(), flat, (ColumnIndex) indexes[1], (OffsetIndex) indexes[2]);
                boolean same = hashes.next().equals(from.hashed()) && one.getPath().equals(other.getPath())
                    && one.getCodec() == other.getCodec() && one.getEncodings().equals(other.getEncodings())
                    && one.getValueCount() == other.getValueCount() && one.getTotalSize() == other.getTotalSize()
                    && one.getTotalUncompressedSize() == other.getTotalUncompressedSize()
                    && one.hasDictionaryPage() == other.hasDictionaryPage()
                    && one.getFirstDataPageOffset() - one.getStartingPos()
                        == other.getFirstDataPageOffset() - other.getStartingPos();
                same = same && RowGroups.areSame(
                    output.source(number).indexes[output.place(number)][column], one.getStartingPos(),
                    indexes, other.getStartingPos());
                if (!same) {
                    throw new IOException(
                        other.getPath() + " in row group " + number + " of " + location + " is not what was copied");
                }
                if (pages.damaged()) {
                    this.readAgain(output, number, column, readers, most);
                } else if (odd != null && refusal == null) {
                    refusal = output.source(number).input.location() + ": in " + other.getPath() + " " + odd;
                }
            }
        }
        if (refusal != null) {
            return refusal;
        }
        Map came = new LinkedHashMap();
        Set parted = new HashSet();
        Map seen = new HashMap();
        for (Iterator each = output.parts.iterator(); each.hasNext();) {
            Object[] part = (Object[]) each.next();
            String source = ((DataFile) part[2]).location();
            came.put(source, claims.containsKey(source) ? claims.get(source) : part[2]);
            int groups = seen.containsKey(source) ? ((Integer) seen.get(source)).intValue() + 1 : 1;
            seen.put(source, Integer.valueOf(groups));
            if (groups < ((RowGroups) part[0]).indexes.length) {
                parted.add(source);
            } else {
                parted.remove(source);
            }
        }
        MetricsConfig modes = MetricsConfig.forTable(this.table);
        output.made = DataFiles.builder(this.table.spec()).withPath(location).withFileSizeInBytes(length)
            .withFormat(FileFormat.PARQUET).withPartition(output.partition)
            .withMetrics(new CopiedMetrics(this.table.schema(), modes).of(file, came.values(), this.columns, parted))
            .withSplitOffsets(ParquetUtil.getSplitOffsets(file.footer)).build();
        return null;
    }

    // Reads a damaged chunk again in the file that it came of: whether it is so in the store, or was read so once.
    private void readAgain(Output output, int number, int column, ExecutorService readers, long most) throws IOException {
        RowGroups file = output.source(number);
        BlockMetaData block = output.block(number);
        ColumnChunkMetaData chunk = (ColumnChunkMetaData) block.getColumns().get(column);
        Object[] indexes = file.indexes[output.place(number)][column];
        boolean flat = file.schema().getColumnDescription(chunk.getPath().toArray()).getMaxRepetitionLevel() == 0;
        Pieces from = new Pieces(readers, most);
        from.add(file.input, block);
        from.begin();
        Pages pages = new Pages();
        String odd = pages.wrong(from, chunk, block.getRowCount(), flat, (ColumnIndex) indexes[1], (OffsetIndex) indexes[2]);
        String where = chunk.getPath() + " of " + file.input.location();
        throw new IOException(pages.damaged() ? where + " is damaged: " + odd : where + ", read again, is not what was copied");
    }

    // The ids of the columns of which footers don't say all, but for those in lists and maps, of which Iceberg notes nothing.
    private Set uncertain(Collection footers) {
        Set unsaid = new HashSet();
        for (Iterator each = footers.iterator(); each.hasNext();) {
            unsaid.addAll(((RowGroups) each.next()).unsaid());
        }
        Set found = new HashSet();
        Map fields = TypeUtil.indexById(this.table.schema().asStruct());
        Map parents = TypeUtil.indexParents(this.table.schema().asStruct());
        for (Iterator each = fields.values().iterator(); each.hasNext();) {
            Types.NestedField field = (Types.NestedField) each.next();
            Integer id = Integer.valueOf(field.fieldId());
            boolean single = CopiedMetrics.isUncertain(field) || unsaid.contains(id);
            for (Object above = parents.get(id); above != null; above = parents.get(above)) {
                single = single && ((Types.NestedField) fields.get(above)).type().isStructType();
            }
            if (single) {
                found.add(id);
            }
        }
        return found;
    }

    // By location, these files with their manifests' metrics of these columns.
    private Map claimed(Map files, Set columns) throws IOException {
        Map claims = new HashMap();
        List names = new ArrayList();
        for (Iterator each = columns.iterator(); each.hasNext();) {
            names.add(this.table.schema().findColumnName(((Integer) each.next()).intValue()));
        }
        if (names.isEmpty()) {
            return claims;
        }
        TableScan scan = this.table.newScan().useSnapshot(this.snapshot.snapshotId());
        CloseableIterable tasks = ((TableScan) scan.includeColumnStats(names)).planFiles();
        try {
            for (Iterator each = tasks.iterator(); each.hasNext();) {
                DataFile file = (DataFile) ((FileScanTask) each.next()).file();
                if (files.containsKey(file.location())) {
                    claims.put(file.location(), file);
                }
            }
        } finally {
            tasks.close();
        }
        return claims;
    }

    /** Commits them in place of the files that they came of; `properties` are of the snapshot, as key, value, key, ... */
    public void commit(String[] properties) {
        RewriteFiles rewrite = this.table.newRewrite().validateFromSnapshot(this.snapshot.snapshotId());
        rewrite.dataSequenceNumber(this.snapshot.sequenceNumber());
        for (Iterator each = this.replaced.values().iterator(); each.hasNext();) {
            rewrite.deleteFile((DataFile) each.next());
        }
        for (Iterator each = this.outputs.iterator(); each.hasNext();) {
            rewrite.addFile(((Output) each.next()).made);
        }
        for (int place = 0; place < properties.length; place += 2) {
            rewrite.set(properties[place], properties[place + 1]);
        }
        this.open = false;
        try {
            rewrite.commit();
        } catch (CommitFailedException refused) {
            this.open = true;
            throw refused;
        } catch (ValidationException refused) {
            this.open = true;
            throw refused;
        }
    }

    /** Whether no commit of it can have landed. */
    public boolean mayBeDeleted() {
        return this.open;
    }

    /** Deletes what was written where no commit can have landed; whether nothing of it is left. */
    public boolean abandon() {
        boolean gone = this.open && this.quiet;
        if (this.open) {
            for (Iterator each = this.outputs.iterator(); each.hasNext();) {
                String location = ((Output) each.next()).file.location();
                try {
                    this.table.io().deleteFile(location);
                    gone = gone && !this.table.io().newInputFile(location).exists();
                } catch (RuntimeException failed) {
                    gone = false;
                }
            }
        }
        return gone;
    }

    // A file that comes: the row groups that it gets, each with its file, its place there, and the hashes of its chunks.
    private static final class Output {
        final StructLike partition;
        final List parts = new ArrayList();
        final List hashes = new ArrayList();
        OutputFile file;
        DataFile made;

        Output(StructLike partition) {
            this.partition = partition;
        }

        RowGroups source(int number) {
            return (RowGroups) ((Object[]) this.parts.get(number))[0];
        }

        int place(int number) {
            return ((Integer) ((Object[]) this.parts.get(number))[1]).intValue();
        }

        BlockMetaData block(int number) {
            return this.source(number).block(this.place(number));
        }
    }
}
