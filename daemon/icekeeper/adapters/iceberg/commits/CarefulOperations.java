// A table's operations, but for a commit that is answered 401 or 403: Iceberg takes that for one that did not land, and
// deletes its manifests and data files. It may have landed, where the request was sent again after its token had
// expired, or a gateway refused the answer. So the table is read before that is believed. Spark's own compiler (Janino)
// compiles this text: it knows no inferred types, hence the casts.
package icekeeper;

import java.util.HashSet;
import java.util.Iterator;
import java.util.Map;
import java.util.Set;
import org.apache.iceberg.Snapshot;
import org.apache.iceberg.TableMetadata;
import org.apache.iceberg.TableOperations;
import org.apache.iceberg.encryption.EncryptionManager;
import org.apache.iceberg.exceptions.CommitStateUnknownException;
import org.apache.iceberg.exceptions.ForbiddenException;
import org.apache.iceberg.exceptions.NotAuthorizedException;
import org.apache.iceberg.exceptions.RESTException;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.LocationProvider;

public final class CarefulOperations implements TableOperations {
  private final TableOperations operations;

  public CarefulOperations(Object operations) {
    this.operations = (TableOperations) operations;
  }

  public void commit(TableMetadata base, TableMetadata metadata) {
    try {
      operations.commit(base, metadata);
    } catch (NotAuthorizedException refused) {
      settle(base, metadata, refused);
    } catch (ForbiddenException refused) {
      settle(base, metadata, refused);
    }
  }

  // Returns where the commit landed, throws the refusal where it did not; neither where the table can't be read.
  private void settle(TableMetadata base, TableMetadata metadata, RESTException refused) {
    TableMetadata now;
    try {
      now = operations.refresh();
    } catch (RuntimeException unread) {
      throw new CommitStateUnknownException(refused);
    }
    boolean changed = !now.metadataFileLocation().equals(base.metadataFileLocation());
    if (!changed || !holdsWhatIsNew(now, base, metadata) || !lacksWhatIsGone(now, base, metadata)) {
      throw refused;
    }
  }

  private static boolean holdsWhatIsNew(TableMetadata now, TableMetadata base, TableMetadata metadata) {
    for (Object each : metadata.snapshots()) {
      long id = ((Snapshot) each).snapshotId();
      if (base.snapshot(id) == null && now.snapshot(id) == null) {
        return false;
      }
    }
    return now.refs().entrySet().containsAll(refsThatChanged(base, metadata));
  }

  private static boolean lacksWhatIsGone(TableMetadata now, TableMetadata base, TableMetadata metadata) {
    for (Object each : base.snapshots()) {
      long id = ((Snapshot) each).snapshotId();
      if (metadata.snapshot(id) == null && now.snapshot(id) != null) {
        return false;
      }
    }
    for (Object name : base.refs().keySet()) {
      if (!metadata.refs().containsKey(name) && now.refs().containsKey(name)) {
        return false;
      }
    }
    return true;
  }

  // But for the main branch: a commit of another writer may have come after it.
  private static Set refsThatChanged(TableMetadata base, TableMetadata metadata) {
    Set changed = new HashSet(metadata.refs().entrySet());
    changed.removeAll(base.refs().entrySet());
    Iterator each = changed.iterator();
    while (each.hasNext()) {
      if ("main".equals(((Map.Entry) each.next()).getKey())) {
        each.remove();
      }
    }
    return changed;
  }

  public TableMetadata current() {
    return operations.current();
  }

  public TableMetadata refresh() {
    return operations.refresh();
  }

  public FileIO io() {
    return operations.io();
  }

  public EncryptionManager encryption() {
    return operations.encryption();
  }

  public String metadataFileLocation(String name) {
    return operations.metadataFileLocation(name);
  }

  public LocationProvider locationProvider() {
    return operations.locationProvider();
  }

  public TableOperations temp(TableMetadata uncommitted) {
    return operations.temp(uncommitted);
  }

  public long newSnapshotId() {
    return operations.newSnapshotId();
  }

  public boolean requireStrictCleanup() {
    return operations.requireStrictCleanup();
  }
}
