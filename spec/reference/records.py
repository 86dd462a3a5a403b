"""FORMAT.md#conventions, #records, #numbers-and-names, #limits: layouts and numbers are that file's own tables, read from it."""
import pathlib
import struct

import xxhash

NONE32, NONE8 = 0xFFFFFFFF, 0xFF

class Defect(Exception):
    """What is wrong with a card: an error name and the offset of the place (None: the place is the section's payload)."""

    def __init__(self, name, offset=None):
        super().__init__(name, offset)
        self.name, self.offset = name, offset

def need(condition, name, offset=None):
    if not condition:
        raise Defect(name, offset)

def align64(size):
    return (size + 63) // 64 * 64

def is_power_of_two(number):
    return number > 0 and number & (number - 1) == 0

def is_text(data):
    try:
        return bytes(data).decode("utf-8") is not None
    except UnicodeDecodeError:
        return False

def digest64(data):
    return xxhash.xxh3_64_intdigest(data)

def check32(data):
    return digest64(data) & 0xFFFFFFFF

def tables_of_format():
    """Heading in lower case -> the rows of the first table below it, as dictionaries."""
    tables, heading, columns = {}, "", None
    for line in (pathlib.Path(__file__).parents[1] / "FORMAT.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading, columns = line.strip("# ").lower(), None
        elif line.startswith("|") and columns is None and heading not in tables:
            columns, tables[heading] = line.strip("| ").split(" | "), []
        elif line.startswith("| ") and columns:
            tables[heading].append(dict(zip(columns, line.strip("|").strip().split(" | "))))
        elif not line.startswith("|"):
            columns = None
    return tables

class Row:
    """One record as read: its fields as attributes, `place` where it stands."""

    def __init__(self, layout, place, values):
        self.layout, self.place = layout, place
        self.__dict__.update(zip(layout.offsets, values))

    def need(self, condition, name, field):
        if not condition:
            raise Defect(name, self.place + self.layout.offsets[field])

    def need_reserved_zero(self):
        for field in self.layout.reserved:
            self.need(not any(getattr(self, field)), "reserved_not_zero", field)

class Layout:
    """A record: little-endian, without padding; reserved fields are read as bytes."""

    CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q", "f32": "f", "f64": "d"}

    def __init__(self, rows):
        reserved = [row["name"] for row in rows if row["rule"] == "reserved_zero"]
        codes = [f"{row['size']}s" if "[" in row["type"] or row["name"] in reserved else self.CODES[row["type"]] for row in rows]
        self.offsets, self.reserved = {row["name"]: int(row["offset"]) for row in rows}, reserved
        self.struct = struct.Struct("<" + "".join(codes))
        self.size = self.struct.size

    def read(self, data, place):
        return Row(self, place, self.struct.unpack_from(data, place))

    def read_all(self, data, place, count, stride=None):
        return [self.read(data, place + i * (stride or self.size)) for i in range(count)]

def begin(name, payload, place=None):
    """The record at the payload's begin, which stands at place."""
    layout = LAYOUTS[name]
    need(len(payload) >= layout.size, "bad_size", place)
    record = layout.read(payload, 0)
    record.place = place or 0
    need(record.record_size == layout.size, "bad_size", place)
    record.need_reserved_zero()
    return record

def rows_behind(payload, place, name, count):
    """count records at place, if the payload has them, and the place behind them."""
    layout = LAYOUTS[name]
    end = place + count * layout.size
    need(end <= len(payload), "bad_size")
    return layout.read_all(payload, place, count), end

def need_zeros(data, first, end, place=0):
    for at in range(first, end):
        need(data[at] == 0, "reserved_not_zero", place + at)

TABLES = tables_of_format()
LAYOUTS = {name: Layout(rows) for name, rows in TABLES.items() if rows and "rule" in rows[0]}
FRAME_HEADER, PLANE, PART = LAYOUTS["frame_header"], LAYOUTS["plane"], LAYOUTS["part"]
STREAM_NAMES = [row["name"] for row in TABLES["streams"]]
(KEY, VALUE, LATENT, OPAQUE), (RAW, GGML, PLANES, ENTROPY), BYTES = range(4), range(4), 255
DTYPES = {int(row["id"]): (row["name"], int(row["block elements"]), int(row["block bytes"])) for row in TABLES["element types"]}
SECTIONS = {int(row["id"]): row for row in TABLES["section types"]}
(TOKEN_IDS, TEXT, POSITIONS, MAP, PARAMETERS, REFERENCES, ROPE_TABLE, CHUNK, MEDIA, SOURCE_LAYOUT, SOURCE_BYTES, CANARY,
 PROVENANCE, PROFILE_DIGEST, SUMMARY, DIRECTORY, LANES, MODEL_PROFILE) = SECTIONS
SECTION_FLAGS = {"-": 0, "required": 1, "copy_safe": 2}
FEATURES = {row["name"]: (row["kind"], int(row["bit"])) for row in TABLES["features"]}
EXACT = 127                                 # offset of the map
VALUE_TYPES = {"text": 1, "u64": 2, "f64": 3, "digest": 4}
IDENTITY_TYPES = {int(row["id"]): VALUE_TYPES[row["type"]] for row in TABLES["identity fields"]}
LIMITS = {row["name"]: int(row["value"]) for row in TABLES["limits"]}
TABLE_COUNTS = {name: LIMITS.get(name + "_count", 1024) for name in ("stream", "segment", "identity")}
TABLE_COUNTS["part"] = TABLE_COUNTS["stream"]
STRIDE_BYTES, ROW_VALUES, MAP_ROWS, PLANES_PARTS = 4096, 4194304, 65536, 64

def row_elements(stream):
    return stream.kv_head_count * stream.head_dim

def block_elements(dtype):
    return DTYPES[dtype][1]

def row_bytes(stream):
    _, elements, size = DTYPES[stream.dtype]
    return row_elements(stream) // elements * size

def element_width(dtype):
    """Half bits a value."""
    return 16 * DTYPES[dtype][2] // DTYPES[dtype][1]
