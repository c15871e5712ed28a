// All data files that a scan lists: their sizes by partition, and those that the manifests list more than once. Compiled
// by Janino, as FileProver.java is.
package icekeeper;

import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.TableScan;
import org.apache.iceberg.io.CloseableIterable;

public final class ListedFiles {
    private final TableScan scan;
    // The hashes of the paths that were seen, as an open hash table, where 0 is a free place: the paths of a million
    // files would fill a heap.
    private long[] seen = new long[1024];
    private int taken = 0;

    public ListedFiles(TableScan scan) {
        this.scan = scan;
    }

    // The sizes in bytes, a list of each partition's, and the paths that are there more than once: as JSON.
    public String read() throws IOException {
        Map sizes = new LinkedHashMap();
        Set again = new HashSet();
        CloseableIterable tasks = this.scan.planFiles();
        try {
            for (Iterator each = tasks.iterator(); each.hasNext();) {
                FileScanTask task = (FileScanTask) each.next();
                String partition = task.spec().partitionToPath(task.file().partition());
                List some = (List) sizes.get(partition);
                if (some == null) {
                    some = new ArrayList();
                    sizes.put(partition, some);
                }
                some.add(Long.valueOf(task.file().fileSizeInBytes()));
                long hash = hash(task.file().location());
                if (!this.add(hash)) {
                    again.add(Long.valueOf(hash));
                }
            }
        } finally {
            tasks.close();
        }
        List answer = new ArrayList();
        answer.add(sizes.values());
        answer.add(this.twice(again));
        return new ObjectMapper().writeValueAsString(answer);
    }

    // The paths of these hashes that are listed more than once; different ones may have the same.
    private Set twice(Set hashes) throws IOException {
        Set twice = new HashSet();
        if (hashes.isEmpty()) {
            return twice;
        }
        Map listed = new HashMap();
        CloseableIterable tasks = this.scan.planFiles();
        try {
            for (Iterator each = tasks.iterator(); each.hasNext();) {
                String path = ((FileScanTask) each.next()).file().location();
                if (hashes.contains(Long.valueOf(hash(path))) && listed.put(path, path) != null) {
                    twice.add(path);
                }
            }
        } finally {
            tasks.close();
        }
        return twice;
    }

    private static long hash(String path) {
        long hash = 0xcbf29ce484222325L;
        for (int at = 0; at < path.length(); at++) {
            hash = (hash ^ path.charAt(at)) * 0x100000001b3L;
        }
        hash ^= hash >>> 32;
        return hash == 0L ? 1L : hash;
    }

    // Whether it was not there.
    private boolean add(long hash) {
        if (2 * this.taken >= this.seen.length) {
            long[] before = this.seen;
            this.seen = new long[2 * before.length];
            for (int at = 0; at < before.length; at++) {
                if (before[at] != 0L) {
                    put(this.seen, before[at]);
                }
            }
        }
        if (!put(this.seen, hash)) {
            return false;
        }
        this.taken++;
        return true;
    }

    private static boolean put(long[] places, long hash) {
        int at = (int) hash & (places.length - 1);
        while (places[at] != 0L) {
            if (places[at] == hash) {
                return false;
            }
            at = (at + 1) & (places.length - 1);
        }
        places[at] = hash;
        return true;
    }
}
