// Whether data files fit the schema of their table, so that a rewrite leaves every value as it is: by null counts of
// manifests, and by footers of Parquet files. Compiled by Janino, as FileProver.java is, which reads the footers.
package icekeeper;

import java.io.IOException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.iceberg.ContentFile;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.PartitionField;
import org.apache.iceberg.PartitionSpec;
import org.apache.iceberg.SchemaParser;
import org.apache.iceberg.StructLike;
import org.apache.iceberg.Table;
import org.apache.iceberg.TableProperties;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.mapping.NameMapping;
import org.apache.iceberg.mapping.NameMappingParser;
import org.apache.iceberg.parquet.ParquetSchemaUtil;
import org.apache.iceberg.shaded.org.apache.parquet.column.ColumnDescriptor;
import org.apache.iceberg.shaded.org.apache.parquet.column.ColumnReader;
import org.apache.iceberg.shaded.org.apache.parquet.column.impl.ColumnReadStoreImpl;
import org.apache.iceberg.shaded.org.apache.parquet.column.page.PageReadStore;
import org.apache.iceberg.shaded.org.apache.parquet.example.data.simple.convert.GroupRecordConverter;
import org.apache.iceberg.shaded.org.apache.parquet.format.ColumnChunk;
import org.apache.iceberg.shaded.org.apache.parquet.format.ColumnMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.format.FileMetaData;
import org.apache.iceberg.shaded.org.apache.parquet.format.RowGroup;
import org.apache.iceberg.shaded.org.apache.parquet.format.converter.ParquetMetadataConverter;
import org.apache.iceberg.shaded.org.apache.parquet.hadoop.ParquetFileReader;
import org.apache.iceberg.shaded.org.apache.parquet.schema.GroupType;
import org.apache.iceberg.shaded.org.apache.parquet.schema.MessageType;
import org.apache.iceberg.shaded.org.apache.parquet.schema.PrimitiveType;
import org.apache.iceberg.types.Type;
import org.apache.iceberg.types.TypeUtil;
import org.apache.iceberg.types.Types;

public final class SchemaFit {
    // Raised with what is compared: files that were found to fit before are compared again.
    private static final String RULES = "2";

    private final Table table;
    private final NameMapping mapping;
    private final String identity;
    // The table's fields at every level, and of each that lies in another one the id of that.
    private final Map fields;
    private final Map parents;
    // Required columns of which a null count is one of nulls that must not be: nothing around them may be null or repeat.
    private final List counted = new ArrayList();
    // Whether null counts of manifests say of all required columns whether a null is in them. No writer makes a map's key null.
    private boolean allCounted = true;
    // The files that are to be rewritten, by location, and the partition under which each is.
    private final Map chosen = new LinkedHashMap();
    private final Map partitions = new HashMap();
    // What the manifest of each of them says.
    private final Map judged = new HashMap();
    private final Set twice = new LinkedHashSet();

    public SchemaFit(Table table) throws Exception {
        this.table = table;
        String json = (String) table.properties().get(TableProperties.DEFAULT_NAME_MAPPING);
        this.mapping = json == null ? null : NameMappingParser.fromJson(json);
        this.identity = UUID.nameUUIDFromBytes((RULES + SchemaParser.toJson(table.schema()) + json).getBytes("UTF-8")).toString();
        this.fields = TypeUtil.indexById(table.schema().asStruct());
        this.parents = TypeUtil.indexParents(table.schema().asStruct());
        for (Iterator each = this.fields.values().iterator(); each.hasNext();) {
            Types.NestedField field = (Types.NestedField) each.next();
            if (field.type().isPrimitiveType() && this.isAlwaysThere(field)) {
                this.counted.add(field);
            } else if (field.isRequired() && !this.isKey(field)) {
                this.allCounted = false;
            }
        }
    }

    private boolean isAlwaysThere(Types.NestedField field) {
        if (!field.isRequired()) {
            return false;
        }
        Types.NestedField parent = (Types.NestedField) this.fields.get(this.parents.get(Integer.valueOf(field.fieldId())));
        return parent == null || (parent.type().isStructType() && this.isAlwaysThere(parent));
    }

    private boolean isKey(Types.NestedField field) {
        Types.NestedField parent = (Types.NestedField) this.fields.get(this.parents.get(Integer.valueOf(field.fieldId())));
        return parent != null && parent.type().isMapType() && parent.type().asMapType().keyId() == field.fieldId();
    }

    // Identifies what files are compared with: a file that fits it fits for ever.
    public String identity() {
        return this.identity;
    }

    // The columns whose null counts have to be read with a manifest, and one more.
    public Collection columns(String more) {
        Set names = new HashSet();
        if (more != null) {
            names.add(more);
        }
        for (Iterator each = this.counted.iterator(); each.hasNext();) {
            names.add(this.name((Types.NestedField) each.next()));
        }
        return names;
    }

    private String name(Types.NestedField field) {
        return this.table.schema().findColumnName(field.fieldId());
    }

    // Takes files that are to be rewritten together.
    public void choose(String partition, Collection tasks) {
        for (Iterator each = tasks.iterator(); each.hasNext();) {
            ContentFile file = ((FileScanTask) each.next()).file();
            Object before = this.partitions.put(file.location(), partition);
            if (this.chosen.put(file.location(), file) != null) {
                this.twice.add(Arrays.asList(new Object[] {before, file.location()}));
                this.twice.add(Arrays.asList(new Object[] {partition, file.location()}));
            }
        }
    }

    // The partition's path, made unique as in planner.py: Iceberg writes a null like the string "null".
    public static String path(PartitionSpec spec, StructLike partition) {
        String path = spec.partitionToPath(partition);
        for (int field = 0; field < spec.fields().size(); field++) {
            Object value = partition.get(field, Object.class);
            if (value != null && value.toString().equals("null")) {
                return path + " (the word)";
            }
        }
        return path;
    }

    // The chosen files that are listed more than once, each with its partition, as a JSON array. `paths`, a JSON array:
    // of such files of the whole table.
    public String listedTwice(String paths) throws IOException {
        for (Iterator each = ((List) new ObjectMapper().readValue(paths, List.class)).iterator(); each.hasNext();) {
            Object path = each.next();
            if (this.partitions.containsKey(path)) {
                this.twice.add(Arrays.asList(new Object[] {this.partitions.get(path), path}));
            }
        }
        return new ObjectMapper().writeValueAsString(this.twice);
    }

    public Map chosen() {
        return this.chosen;
    }

    public String partition(ContentFile file) {
        return (String) this.partitions.get(file.location());
    }

    // Takes what the manifest of a chosen file says, with its counts. Returns the file without them, for the heap.
    public ContentFile judge(ContentFile file) {
        this.judged.put(file.location(), this.byManifest(file));
        return (ContentFile) file.copyWithoutStats();
    }

    public String[] judged(ContentFile file) {
        String[] known = (String[]) this.judged.get(file.location());
        return known == null ? this.byManifest(file) : known;
    }

    // What does not fit by the counts in a file's manifest, and what they leave open; null where there is no such thing.
    private String[] byManifest(ContentFile file) {
        Set constants = this.constants(file);
        String open = this.allCounted ? null : "whether a required column in a list, a map or an optional struct is null is not known";
        for (Iterator each = this.counted.iterator(); each.hasNext();) {
            Types.NestedField field = (Types.NestedField) each.next();
            Long nulls = inManifest(field, file);
            if (constants.contains(Integer.valueOf(field.fieldId()))) {
                continue;
            }
            if (nulls == null) {
                open = "whether the required column " + this.name(field) + " holds nulls is not known";
            } else if (nulls.longValue() > 0) {
                return new String[] {this.withNulls(field, nulls.longValue()), null};
            }
        }
        return new String[] {null, open};
    }

    private static Long inManifest(Types.NestedField field, ContentFile file) {
        Map counts = file.nullValueCounts();
        return counts == null ? null : (Long) counts.get(Integer.valueOf(field.fieldId()));
    }

    private String withNulls(Types.NestedField field, long nulls) {
        return "the required column " + this.name(field) + " holds " + nulls + (nulls == 1 ? " null" : " nulls");
    }

    // What does not fit, by a file's footer; null where all does. Pages are read only where the footer leaves it open.
    public String byFooter(FileMetaData footer, InputFile input, ContentFile file) throws Exception {
        List groups = footer.getRow_groups();
        MessageType schema;
        try {
            // Only the schema is wanted of it.
            FileMetaData alone = new FileMetaData(footer.getVersion(), footer.getSchema(), 0L, new ArrayList());
            schema = new ParquetMetadataConverter().fromParquetMetadata(alone).getFileMetaData().getSchema();
            if (!ParquetSchemaUtil.hasIds(schema)) {
                if (this.mapping == null) {
                    return "its columns have no field ids, and the table has no name mapping";
                }
                schema = ParquetSchemaUtil.applyNameMapping(schema, this.mapping);
            }
        } catch (RuntimeException error) {
            return "its schema is not understood: " + error.getMessage();
        }
        Map found = new HashMap();
        index(schema, 0, new ArrayList(), found);
        Set constants = this.constants(file);
        for (Iterator each = this.fields.values().iterator(); each.hasNext();) {
            Types.NestedField field = (Types.NestedField) each.next();
            Integer id = Integer.valueOf(field.fieldId());
            Node node = (Node) found.get(id);
            if (constants.contains(id)) {
                continue;
            }
            if (node == null) {
                Integer parent = (Integer) this.parents.get(id);
                if (parent != null && !found.containsKey(parent)) {
                    continue;
                }
                if (this.isThereWithoutId(field, parent, parent == null ? schema : ((Node) found.get(parent)).type)) {
                    return "the column " + this.name(field) + " has no field id in the file";
                }
                if (field.isRequired() && field.initialDefault() == null) {
                    return "the required column " + this.name(field) + " is not in it";
                }
                continue;
            }
            String other = otherType(field.type(), node.type);
            if (other != null) {
                return "the column " + this.name(field) + " is " + field.type() + " in the table and " + other + " in the file";
            }
            if (field.isRequired() && node.type.isRepetition(org.apache.iceberg.shaded.org.apache.parquet.schema.Type.Repetition.OPTIONAL)) {
                long nulls;
                try {
                    nulls = nulls(field, node, groups, input, file);
                } catch (Exception error) {
                    if (isOfFile(error)) {
                        return "the nulls of the required column " + this.name(field) + " can't be counted: " + error.getMessage();
                    }
                    throw error;
                }
                if (nulls > 0) {
                    return this.withNulls(field, nulls);
                }
            }
        }
        return null;
    }

    // Whether the file has a column of this name beside those with ids: Iceberg reads it as null. Elements, keys and
    // values have names of their writer's.
    private boolean isThereWithoutId(
            Types.NestedField field, Integer parent, org.apache.iceberg.shaded.org.apache.parquet.schema.Type above) {
        boolean named = parent == null || ((Types.NestedField) this.fields.get(parent)).type().isStructType();
        if (above.isPrimitive()) {
            return false;
        }
        for (Iterator each = above.asGroupType().getFields().iterator(); each.hasNext();) {
            org.apache.iceberg.shaded.org.apache.parquet.schema.Type below =
                (org.apache.iceberg.shaded.org.apache.parquet.schema.Type) each.next();
            boolean repeated = below.isRepetition(org.apache.iceberg.shaded.org.apache.parquet.schema.Type.Repetition.REPEATED);
            if (!named && repeated && !below.isPrimitive() && below.getId() == null) {
                return this.isThereWithoutId(field, parent, below);
            }
            if (below.getId() == null && (!named || below.getName().equals(field.name()))) {
                return true;
            }
        }
        return false;
    }

    // Whether an error is about what a file holds (its codec, its pages), not about the store.
    private static boolean isOfFile(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause.getClass().getName().startsWith("org.apache.iceberg.shaded.org.apache.parquet.")) {
                return true;
            }
        }
        return error instanceof RuntimeException && error.getClass().getName().startsWith("java.lang.");
    }

    // The columns whose values are those of its partition, whatever a file has for them.
    private Set constants(ContentFile file) {
        Set ids = new HashSet();
        PartitionSpec spec = (PartitionSpec) this.table.specs().get(Integer.valueOf(file.specId()));
        for (Iterator each = spec.fields().iterator(); each.hasNext();) {
            PartitionField field = (PartitionField) each.next();
            if (field.transform().isIdentity()) {
                ids.add(Integer.valueOf(field.sourceId()));
            }
        }
        return ids;
    }

    private static void index(GroupType group, int level, List path, Map found) {
        for (Iterator each = group.getFields().iterator(); each.hasNext();) {
            Node node = new Node((org.apache.iceberg.shaded.org.apache.parquet.schema.Type) each.next(), level, path);
            if (node.type.getId() != null) {
                found.put(Integer.valueOf(node.type.getId().intValue()), node);
            }
            if (!node.type.isPrimitive()) {
                index(node.type.asGroupType(), node.level, node.path, found);
            }
        }
    }

    // The type that a file has for a column, where it can't be read as the table's with every value as it is; else null.
    private static String otherType(Type wanted, org.apache.iceberg.shaded.org.apache.parquet.schema.Type type) {
        if (!wanted.isPrimitiveType() || !type.isPrimitive()) {
            return wanted.isPrimitiveType() == type.isPrimitive() ? null : type.isPrimitive() ? "a value" : "a group";
        }
        PrimitiveType primitive = type.asPrimitiveType();
        Type found;
        try {
            found = typeOf(primitive);
        } catch (RuntimeException unknown) {
            return String.valueOf(primitive.getLogicalTypeAnnotation());
        }
        return isReadAs(found, wanted) ? null : found.toString();
    }

    private static Type typeOf(PrimitiveType primitive) {
        Object alone = ((org.apache.iceberg.shaded.org.apache.parquet.schema.Types.PrimitiveBuilder)
            org.apache.iceberg.shaded.org.apache.parquet.schema.Types.required(primitive.getPrimitiveTypeName())
                .length(primitive.getTypeLength())).as(primitive.getLogicalTypeAnnotation()).named("column");
        MessageType message = new MessageType("file", Collections.singletonList(alone));
        return ((Types.NestedField) ParquetSchemaUtil.convert(message).columns().get(0)).type();
    }

    private static boolean isReadAs(Type found, Type wanted) {
        if (TypeUtil.isPromotionAllowed(found, wanted.asPrimitiveType())) {
            return true;
        }
        String from = found.typeId().name();
        String to = wanted.typeId().name();
        // Whether instants are of a zone changes none of them. Older writers mark neither texts nor UUIDs.
        return (from.equals(to) && from.startsWith("TIMESTAMP"))
            || (from.equals("BINARY") && (to.equals("STRING") || to.startsWith("GEO")))
            || (from.equals("FIXED") && (to.equals("UUID") || to.equals("BINARY")))
            || (from.startsWith("GEO") && from.equals(to)) || to.equals("UNKNOWN");
    }

    // How many nulls of a field that the file allows to be null are there while all around it is there.
    private static long nulls(Types.NestedField field, Node node, List groups, InputFile input, ContentFile file) throws Exception {
        List path = new ArrayList(node.path);
        for (org.apache.iceberg.shaded.org.apache.parquet.schema.Type below = node.type; !below.isPrimitive();) {
            below = below.asGroupType().getType(0);
            path.add(below.getName());
        }
        Long all = inFooter(path, groups);
        boolean alone = node.level == 1 && node.type.isPrimitive();
        if (all == null && alone) {
            all = inManifest(field, file);
        }
        return all != null && (alone || all.longValue() == 0) ? all.longValue() : inPages(path, node.level - 1, input);
    }

    // The null count of a column over all row groups; null where one of them has none.
    private static Long inFooter(List path, List groups) {
        long nulls = 0;
        for (Iterator each = groups.iterator(); each.hasNext();) {
            Long some = null;
            for (Iterator chunks = ((RowGroup) each.next()).getColumns().iterator(); chunks.hasNext();) {
                ColumnMetaData chunk = ((ColumnChunk) chunks.next()).getMeta_data();
                if (chunk != null && path.equals(chunk.getPath_in_schema()) && chunk.isSetStatistics()) {
                    some = chunk.getStatistics().isSetNull_count() ? Long.valueOf(chunk.getStatistics().getNull_count()) : null;
                }
            }
            if (some == null) {
                return null;
            }
            nulls += some.longValue();
        }
        return Long.valueOf(nulls);
    }

    // How many values of a column end at this definition level (Parquet format, 'Nested Encoding').
    private static long inPages(List path, int level, InputFile input) throws Exception {
        Class io = Class.forName("org.apache.iceberg.parquet.ParquetIO", true, ParquetSchemaUtil.class.getClassLoader());
        Method file = io.getDeclaredMethod("file", new Class[] {InputFile.class});
        file.setAccessible(true);
        ParquetFileReader reader = ParquetFileReader.open(
            (org.apache.iceberg.shaded.org.apache.parquet.io.InputFile) file.invoke(null, new Object[] {input}));
        try {
            MessageType schema = reader.getFileMetaData().getSchema();
            ColumnDescriptor column = schema.getColumnDescription((String[]) path.toArray(new String[0]));
            reader.setRequestedSchema(Collections.singletonList(column));
            long found = 0;
            for (PageReadStore pages = reader.readNextRowGroup(); pages != null; pages = reader.readNextRowGroup()) {
                ColumnReader values = new ColumnReadStoreImpl(pages, new GroupRecordConverter(schema).getRootConverter(),
                    schema, reader.getFileMetaData().getCreatedBy()).getColumnReader(column);
                for (long left = values.getTotalValueCount(); left > 0; left--) {
                    found += values.getCurrentDefinitionLevel() == level ? 1 : 0;
                    values.consume();
                }
            }
            return found;
        } finally {
            reader.close();
        }
    }

    // A field of a file: its definition level where it is not null, and the names down to it.
    private static final class Node {
        final org.apache.iceberg.shaded.org.apache.parquet.schema.Type type;
        final int level;
        final List path;

        Node(org.apache.iceberg.shaded.org.apache.parquet.schema.Type type, int above, List path) {
            this.type = type;
            this.level = above + (type.isRepetition(org.apache.iceberg.shaded.org.apache.parquet.schema.Type.Repetition.REQUIRED) ? 0 : 1);
            this.path = new ArrayList(path);
            this.path.add(type.getName());
        }
    }
}
