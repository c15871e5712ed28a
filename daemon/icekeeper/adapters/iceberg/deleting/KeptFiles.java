// Files that could not be deleted, in the JVM of the session: which of them a table still refers to, and another try at
// the others. Compiled by Janino, as FileProver.java is; where they are kept between nights: kept.py.
package icekeeper;

import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.HasTableOperations;
import org.apache.iceberg.ManifestFile;
import org.apache.iceberg.ManifestFiles;
import org.apache.iceberg.PartitionStatisticsFile;
import org.apache.iceberg.Snapshot;
import org.apache.iceberg.StatisticsFile;
import org.apache.iceberg.Table;
import org.apache.iceberg.TableMetadata;
import org.apache.iceberg.TableMetadataParser;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.SupportsBulkOperations;

public final class KeptFiles {
    private static final int THREADS = 8;
    // A FileIO deletes several batches of these side by side.
    private static final int CHUNK = 2000;

    private final Table table;
    // Paths, by what is the same in all ways to write them.
    private final Map left = new LinkedHashMap();
    // The version of the metadata by which they are not referred to.
    private String checked = "";

    public KeptFiles(Table table) {
        this.table = table;
    }

    /** Takes the paths of a file, one a line. */
    public void read(String file) throws Exception {
        BufferedReader lines = Files.newBufferedReader(Paths.get(file, new String[0]), StandardCharsets.UTF_8);
        try {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                if (!line.isEmpty() && !line.startsWith("#")) {
                    this.left.put(KeptFiles.key(line), line);
                }
            }
        } finally {
            lines.close();
        }
    }

    /** Appends to a file the paths that are left, at most so many. */
    public void write(String file, int most) throws Exception {
        BufferedWriter lines = Files.newBufferedWriter(
            Paths.get(file, new String[0]), StandardCharsets.UTF_8,
            new java.nio.file.OpenOption[] {java.nio.file.StandardOpenOption.APPEND});
        try {
            int number = 0;
            for (Iterator each = this.left.values().iterator(); each.hasNext() && number < most; number++) {
                lines.write((String) each.next());
                lines.write("\n");
            }
        } finally {
            lines.close();
        }
    }

    public int count() {
        return this.left.size();
    }

    public Collection paths() {
        return new ArrayList(this.left.values());
    }

    /**
     * Takes what snapshots of a former version of the metadata name: files, manifests, lists, statistics. Not the
     * manifests that the table still has: their live files are referred to, and could be more than fit the heap.
     */
    public void addNamed(String metadata, String snapshotIds) throws Exception {
        final FileIO io = this.table.io();
        TableMetadata before = TableMetadataParser.read(io, metadata);
        Collection ids = Arrays.asList(snapshotIds.split(","));
        Collection current = this.manifests().keySet();
        Map manifests = new HashMap();
        for (Iterator each = before.snapshots().iterator(); each.hasNext();) {
            Snapshot snapshot = (Snapshot) each.next();
            if (ids.contains(String.valueOf(snapshot.snapshotId()))) {
                if (snapshot.manifestListLocation() != null) {
                    this.put(snapshot.manifestListLocation());
                }
                for (Iterator some = snapshot.allManifests(io).iterator(); some.hasNext();) {
                    ManifestFile manifest = (ManifestFile) some.next();
                    if (!current.contains(manifest.path())) {
                        manifests.put(manifest.path(), manifest);
                        this.put(manifest.path());
                    }
                }
            }
        }
        for (Iterator each = before.statisticsFiles().iterator(); each.hasNext();) {
            StatisticsFile file = (StatisticsFile) each.next();
            if (ids.contains(String.valueOf(file.snapshotId()))) {
                this.put(file.path());
            }
        }
        for (Iterator each = before.partitionStatisticsFiles().iterator(); each.hasNext();) {
            PartitionStatisticsFile file = (PartitionStatisticsFile) each.next();
            if (ids.contains(String.valueOf(file.snapshotId()))) {
                this.put(file.path());
            }
        }
        this.readPaths(manifests.values(), io, before.specsById(), true);
    }

    // Those that any snapshot of the table refers to, by their paths.
    private Map manifests() {
        FileIO io = this.table.io();
        Map manifests = new HashMap();
        for (Iterator each = this.table.snapshots().iterator(); each.hasNext();) {
            for (Iterator some = ((Snapshot) each.next()).allManifests(io).iterator(); some.hasNext();) {
                ManifestFile manifest = (ManifestFile) some.next();
                manifests.put(manifest.path(), manifest);
            }
        }
        return manifests;
    }

    private void put(String path) {
        this.left.put(KeptFiles.key(path), path);
    }

    /** Leaves out what any snapshot of the table refers to. Throws where that can't be read: then none may be deleted. */
    public int dropReferenced() throws Exception {
        int before = this.left.size();
        final FileIO io = this.table.io();
        final Map specs = this.table.specs();
        Map manifests = this.manifests();
        for (Iterator each = this.table.snapshots().iterator(); each.hasNext();) {
            this.left.remove(KeptFiles.key(String.valueOf(((Snapshot) each.next()).manifestListLocation())));
        }
        for (Iterator each = this.table.statisticsFiles().iterator(); each.hasNext();) {
            this.left.remove(KeptFiles.key(((StatisticsFile) each.next()).path()));
        }
        for (Iterator each = this.table.partitionStatisticsFiles().iterator(); each.hasNext();) {
            this.left.remove(KeptFiles.key(((PartitionStatisticsFile) each.next()).path()));
        }
        for (Iterator each = manifests.keySet().iterator(); each.hasNext();) {
            this.left.remove(KeptFiles.key((String) each.next()));
        }
        this.readPaths(manifests.values(), io, specs, false);
        this.checked = this.version();
        return before - this.left.size();
    }

    private String version() {
        return ((HasTableOperations) this.table).operations().current().metadataFileLocation();
    }

    // Takes or leaves out the paths in manifests as they are read: all files of a large table would not fit the heap.
    private void readPaths(Collection manifests, final FileIO io, final Map specs, final boolean take) throws Exception {
        List work = new ArrayList();
        for (Iterator each = manifests.iterator(); each.hasNext();) {
            final ManifestFile manifest = (ManifestFile) each.next();
            work.add(new Callable() {
                public Object call() throws Exception {
                    CloseableIterable paths = ManifestFiles.readPaths(manifest, io, specs);
                    try {
                        for (Iterator each = paths.iterator(); each.hasNext();) {
                            KeptFiles.this.note((String) each.next(), take);
                        }
                    } finally {
                        paths.close();
                    }
                    return null;
                }
            });
        }
        KeptFiles.all(work);
    }

    void note(String path, boolean take) {
        String key = KeptFiles.key(path);
        synchronized (this.left) {
            if (take) {
                this.left.put(key, path);
            } else {
                this.left.remove(key);
            }
        }
    }

    /** Leaves out what is not in the store any more. */
    public void dropGone(long until) throws Exception {
        for (Iterator each = this.gone(new ArrayList(this.left.values()), until).iterator(); each.hasNext();) {
            this.left.remove(KeptFiles.key((String) each.next()));
        }
    }

    /** Deletes them; those that are still there afterwards, or can't be tried by then (epoch, ms), are left. */
    public void delete(long until) throws Exception {
        List all = new ArrayList(this.left.values());
        for (int start = 0; start < all.size() && System.currentTimeMillis() < until; start += CHUNK) {
            this.table.refresh();
            if (!this.version().equals(this.checked)) {
                this.dropReferenced();  // a commit has landed meanwhile
            }
            List chunk = new ArrayList(all.subList(start, Math.min(all.size(), start + CHUNK)));
            chunk.retainAll(new HashSet(this.left.values()));
            FileIO io = this.table.io();
            try {
                if (io instanceof SupportsBulkOperations) {
                    ((SupportsBulkOperations) io).deleteFiles(chunk);
                } else {
                    CatalogUtil.deleteFiles(io, chunk, "kept", true);
                }
            } catch (RuntimeException e) {
                // Whatever it is: what is gone is found out below.
            }
            // What is still there goes to the end: the next night begins with what this one had no time for.
            Collection gone = new HashSet(this.gone(chunk, until));
            for (Iterator each = chunk.iterator(); each.hasNext();) {
                String path = (String) each.next();
                String key = KeptFiles.key(path);
                this.left.remove(key);
                if (!gone.contains(path)) {
                    this.left.put(key, path);
                }
            }
        }
    }

    private List gone(List chunk, final long until) throws Exception {
        final FileIO io = this.table.io();
        List work = new ArrayList();
        for (Iterator each = chunk.iterator(); each.hasNext();) {
            final String path = (String) each.next();
            work.add(new Callable() {
                public Object call() {
                    try {
                        return System.currentTimeMillis() < until && !io.newInputFile(path).exists() ? path : null;
                    } catch (RuntimeException e) {
                        return null;  // not known: it may be there
                    }
                }
            });
        }
        List gone = KeptFiles.all(work);
        gone.removeAll(java.util.Collections.singleton(null));
        return gone;
    }

    private static List all(List work) throws Exception {
        List answers = new ArrayList();
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        try {
            for (Iterator done = pool.invokeAll(work).iterator(); done.hasNext();) {
                answers.add(((Future) done.next()).get());
            }
        } finally {
            pool.shutdownNow();
        }
        return answers;
    }

    /**
     * What is the same in all ways to write a path: of S3 the bucket and the key, of others the path alone, as their
     * servers have several names. A match too many leaves a file in the store, one too few would take one in use.
     */
    private static String key(String path) {
        int colon = path.indexOf(":/");
        String scheme = colon < 0 ? "" : path.substring(0, colon);
        int start = colon < 0 ? 0 : colon + 1;
        if (path.startsWith("//", start) && !path.startsWith("///", start) && !scheme.startsWith("s3")) {
            int slash = path.indexOf('/', start + 2);
            start = slash < 0 ? path.length() : slash;
        }
        while (start < path.length() && path.charAt(start) == '/') {
            start++;
        }
        return path.substring(start);
    }
}
