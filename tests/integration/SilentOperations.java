// A table's operations whose FileIO does not say its properties: a stand-in for those of Iceberg that don't.
package icekeeper;

import org.apache.iceberg.TableMetadata;
import org.apache.iceberg.TableOperations;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.LocationProvider;
import org.apache.iceberg.io.OutputFile;

public final class SilentOperations implements TableOperations {
  final TableOperations operations;

  public SilentOperations(Object operations) {
    this.operations = (TableOperations) operations;
  }

  public FileIO io() {
    return new FileIO() {
      public InputFile newInputFile(String path) {
        return operations.io().newInputFile(path);
      }

      public OutputFile newOutputFile(String path) {
        return operations.io().newOutputFile(path);
      }

      public void deleteFile(String path) {
        operations.io().deleteFile(path);
      }
    };
  }

  public TableMetadata current() {
    return operations.current();
  }

  public TableMetadata refresh() {
    return operations.refresh();
  }

  public void commit(TableMetadata base, TableMetadata metadata) {
    operations.commit(base, metadata);
  }

  public String metadataFileLocation(String name) {
    return operations.metadataFileLocation(name);
  }

  public LocationProvider locationProvider() {
    return operations.locationProvider();
  }
}
