// A table's operations whose FileIO reads a file of metadata by one request. Iceberg asks a store for the length of a
// manifest list first, and Avro's reader goes back to the start of each file, which opens it again: three requests for
// each list of an expired snapshot, two for each manifest. Compiled by Janino, as FileProver.java is.
package icekeeper;

import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.iceberg.ManifestFiles;
import org.apache.iceberg.TableMetadata;
import org.apache.iceberg.TableOperations;
import org.apache.iceberg.encryption.EncryptionManager;
import org.apache.iceberg.io.ContentCache;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.LocationProvider;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.io.SeekableInputStream;

public final class WholeReads implements TableOperations {
  private final TableOperations operations;
  private final FileIO io;

  /** At most so many bytes are held at a time; what does not fit is read from the store piece by piece. */
  public WholeReads(Object operations, Object bytes) {
    this.operations = (TableOperations) operations;
    this.io = new WholeIO(this.operations.io(), new AtomicLong(((Number) bytes).longValue()));
  }

  public FileIO io() {
    return io;
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

  public static final class WholeIO implements FileIO {
    private static final long SMALL = 1L << 20;
    private final FileIO io;
    private final AtomicLong free;
    private final ContentCache known;

    WholeIO(FileIO io, AtomicLong free) {
      this.io = io;
      this.free = free;
      this.known = "true".equals(propertiesOf(io).get("io.manifest.cache-enabled")) ? cacheOf(io) : null;
    }

    private static Map propertiesOf(FileIO io) {
      try {
        return io.properties();
      } catch (UnsupportedOperationException e) {
        return new HashMap();  // many a FileIO does not say them
      }
    }

    // What Iceberg has read of manifests through this FileIO. It keeps that by the object, which is not ours.
    private static ContentCache cacheOf(FileIO io) {
      try {
        Method method = ManifestFiles.class.getDeclaredMethod("contentCache", new Class[] {FileIO.class});
        method.setAccessible(true);
        return (ContentCache) method.invoke(null, new Object[] {io});
      } catch (ReflectiveOperationException e) {
        return null;  // then some are read twice
      }
    }

    public InputFile newInputFile(String path) {
      return new WholeFile(io.newInputFile(path), -1L, free);
    }

    public InputFile newInputFile(String path, long length) {
      InputFile file = io.newInputFile(path, length);
      return known != null && length <= SMALL ? known.tryCache(file) : new WholeFile(file, length, free);
    }

    public OutputFile newOutputFile(String path) {
      return io.newOutputFile(path);
    }

    public void deleteFile(String path) {
      io.deleteFile(path);
    }

    // Without a cache for this FileIO beside that of the table's.
    public Map properties() {
      Map properties = new HashMap(propertiesOf(io));
      properties.put("io.manifest.cache-enabled", "false");
      return properties;
    }

    public void close() {
      // It belongs to the table.
    }
  }

  public static final class WholeFile implements InputFile {
    private static final int PIECE = 65536;
    private final InputFile file;
    private final long named;
    private final AtomicLong free;
    // What getLength has read, for the stream that comes next; Avro's reader asks for the length once it has a stream.
    private Bytes read;
    private long length = -1L;
    // There was no room for it: it is read by Iceberg, whatever room there is later.
    private boolean left = false;

    WholeFile(InputFile file, long named, AtomicLong free) {
      this.file = file;
      this.named = named;
      this.free = free;
    }

    public synchronized long getLength() {
      if (named >= 0) {
        return named;
      }
      if (length < 0) {
        read = fetch();
        length = read == null ? file.getLength() : length;
      }
      return length;
    }

    public synchronized SeekableInputStream newStream() {
      Bytes stream = read == null ? fetch() : read;
      read = null;
      left = stream == null;
      return stream == null ? file.newStream() : (SeekableInputStream) stream;
    }

    public String location() {
      return file.location();
    }

    public boolean exists() {
      return file.exists();
    }

    // Null where there is no room for it, or it has not the length that a list names: then Iceberg reads it its own way.
    private Bytes fetch() {
      if (left || free.get() <= 0) {
        return null;
      }
      Room room = new Room(free);
      byte[] content = null;
      try {
        if (named < 0 || named <= Integer.MAX_VALUE - 8 && room.take(named)) {
          SeekableInputStream stream = file.newStream();
          try {
            content = named < 0 ? readToEnd(stream, room) : readExactly(stream, (int) named);
          } finally {
            stream.close();
          }
        }
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      } finally {
        if (content == null) {
          room.giveBack();
        }
      }
      if (content == null) {
        return null;
      }
      length = content.length;
      return new Bytes(content, room);
    }

    private static byte[] readExactly(SeekableInputStream stream, int length) throws IOException {
      byte[] content = new byte[length];
      int position = 0;
      while (position < length) {
        int got = stream.read(content, position, length - position);
        if (got < 0) {
          return null;
        }
        position += got;
      }
      return stream.read() < 0 ? content : null;
    }

    private static byte[] readToEnd(SeekableInputStream stream, Room room) throws IOException {
      ByteArrayOutputStream content = new ByteArrayOutputStream(PIECE);
      byte[] piece = new byte[PIECE];
      for (int got = stream.read(piece, 0, PIECE); got >= 0; got = stream.read(piece, 0, PIECE)) {
        if (!room.take(got)) {
          return null;
        }
        content.write(piece, 0, got);
      }
      return content.toByteArray();
    }
  }

  /** What one file takes of the bytes that may be held. */
  public static final class Room {
    private final AtomicLong free;
    private long taken = 0L;

    Room(AtomicLong free) {
      this.free = free;
    }

    synchronized boolean take(long bytes) {
      taken += bytes;
      return free.addAndGet(-bytes) >= 0;
    }

    synchronized void giveBack() {
      free.addAndGet(taken);
      taken = 0L;
    }
  }

  /** A whole file; closing it gives its room back. */
  public static final class Bytes extends SeekableInputStream {
    final byte[] content;
    private final Room room;
    private int position = 0;

    Bytes(byte[] content, Room room) {
      this.content = content;
      this.room = room;
    }

    public long getPos() {
      return position;
    }

    public void seek(long to) throws IOException {
      if (to < 0 || to > content.length) {
        throw new EOFException("there is no byte " + to + " of " + content.length);
      }
      position = (int) to;
    }

    public int read() {
      return position < content.length ? content[position++] & 0xff : -1;
    }

    public int read(byte[] into, int offset, int length) {
      if (length == 0) {
        return 0;
      }
      int got = Math.min(length, content.length - position);
      if (got <= 0) {
        return -1;
      }
      System.arraycopy(content, position, into, offset, got);
      position += got;
      return got;
    }

    public int available() {
      return content.length - position;
    }

    public void close() {
      room.giveBack();
    }
  }
}
