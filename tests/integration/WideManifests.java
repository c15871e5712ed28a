// Large manifests for a test of memory: files that are not there, each with metrics of so many columns that no codec
// makes small. Compiled by Janino.
package icekeeper;

import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import org.apache.iceberg.AppendFiles;
import org.apache.iceberg.DataFiles;
import org.apache.iceberg.ManifestFiles;
import org.apache.iceberg.ManifestWriter;
import org.apache.iceberg.Metrics;
import org.apache.iceberg.Table;

public final class WideManifests {
  private final Table table;
  private final Random random = new Random(1);
  private int made = 0;

  public WideManifests(Object table) {
    this.table = (Table) table;
  }

  /** Appends a snapshot of one manifest that names so many files; its length in bytes. */
  public long append(int files, int columns) throws Exception {
    String path = table.location() + "/metadata/wide-" + made + ".avro";
    ManifestWriter writer = ManifestFiles.write(2, table.spec(), table.io().newOutputFile(path), null);
    try {
      for (int number = 0; number < files; number++) {
        writer.add(
            DataFiles.builder(table.spec())
                .withPath(table.location() + "/data/" + made++ + ".parquet")
                .withFormat("parquet")
                .withFileSizeInBytes(1000L)
                .withMetrics(metrics(columns))
                .build());
      }
    } finally {
      writer.close();
    }
    AppendFiles append = table.newFastAppend();
    append.appendManifest(writer.toManifestFile());
    append.commit();
    return writer.toManifestFile().length();
  }

  private Metrics metrics(int columns) {
    Map counts = new HashMap();
    Map lower = new HashMap();
    Map upper = new HashMap();
    for (int column = 1; column <= columns; column++) {
      Integer id = Integer.valueOf(column);
      counts.put(id, Long.valueOf(random.nextInt(1 << 20)));
      lower.put(id, bound());
      upper.put(id, bound());
    }
    return new Metrics(Long.valueOf(10L), counts, counts, counts, null, lower, upper);
  }

  private ByteBuffer bound() {
    byte[] bytes = new byte[16];
    random.nextBytes(bytes);
    return ByteBuffer.wrap(bytes);
  }
}
