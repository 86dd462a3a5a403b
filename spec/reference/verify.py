"""FORMAT.md#checks: a sequential reader that stops at the first defect in file order. Methods in the order of the checks."""
import collections

import xxhash

import compressors
import entropy
import sections
from records import *

class Card:
    """A card in memory. After walk() it is checked, and its header, tables, sections and chunks are at hand."""

    def __init__(self, data):
        self.data = memoryview(bytes(data))
        self.size = len(self.data)
        self.frames, self.chunks = [], []   # the bytes of every frame header; (frame, stream's index, payload) of every chunk
        self.first = {}                     # (section type, segment) -> the first such frame
        self.named, self.positions, self.maps, self.tokens = {}, {}, {}, {}   # by (type, stored digest); by segment
        self.layout, self.map_bytes, self.literal_size, self.value_count, self.opaque_size = None, 0, 0, 0, 0
        self.stages = collections.defaultdict(lambda: [0, 0, 0, 0])
        self.widths = collections.Counter()

    def walk(self):
        self.check_prologue()
        self.check_header()
        self.check_identity()
        self.check_segments()
        self.index = {}                     # (layer, stream) -> place in the table
        for stream in self.streams:
            self.check_stream(stream)
            self.index[stream.layer, stream.stream] = len(self.index)
        self.reached = [s.first_token for s in self.streams]           # of an opaque stream: bytes
        place = 64 + align64(self.prologue.header_size)
        while (DIRECTORY, NONE32) not in self.first:
            place = self.check_frame(place)
        self.check_end(place)

    def check_prologue(self):
        need(self.size >= 64, "truncated", self.size)                                                # P1
        p = self.prologue = LAYOUTS["prologue"].read(self.data, 0)
        p.need(p.magic == bytes.fromhex("894B56430D0A1A0A"), "bad_magic", "magic")                   # P2
        p.need(p.check == check32(self.data[:60]), "checksum_mismatch", "check")                     # P3
        p.need((p.format_major, p.format_minor) == (0, 2), "unsupported_version", "format_major")    # P4
        p.need_reserved_zero()                                                                       # P5
        p.need(p.required_features < 16, "unsupported_feature", "required_features")                  # P6
        p.need(p.header_size <= LIMITS["header_bytes"], "limit_exceeded", "header_size")             # P7
        p.need(p.header_size >= LAYOUTS["header"].size, "bad_size", "header_size")                   # P8

    def check_header(self):
        size = self.prologue.header_size
        need(self.size >= 64 + align64(size), "truncated", self.size)                                # H1
        self.prologue.need(self.prologue.header_digest == digest64(self.data[64:64 + size]), "checksum_mismatch", "header_digest")
        self.need_padding(64 + size)                                                                 # H3
        h = self.header = LAYOUTS["header"].read(self.data, 64)
        h.need(h.layout.size <= h.record_size <= size, "bad_size", "record_size")                    # H4
        h.need_reserved_zero()                                                                       # H5
        h.need(h.flags < 8, "reserved_not_zero", "flags")                                            # H6
        h.need(h.token_count <= LIMITS["token_count"], "limit_exceeded", "token_count")              # H7
        h.need(h.restorable <= 2, "bad_enum", "restorable")                                          # H8
        h.need(h.restorable_from <= h.token_count, "corrupt", "restorable_from")                     # H9
        self.streams, self.parts, self.segments, self.identity = map(self.read_table, ("stream", "part", "segment", "identity"))

    def need_padding(self, place):
        """Zeros from place to the next multiple of 64."""
        need_zeros(self.data, place, align64(place))

    def read_table(self, name):
        h, layout = self.header, LAYOUTS[name]
        offset, count, stride = (getattr(h, name + field) for field in ("_offset", "_count", "_stride"))
        h.need(count <= TABLE_COUNTS[name], "limit_exceeded", name + "_count")                       # H10
        h.need(layout.size <= stride <= STRIDE_BYTES, "bad_size", name + "_stride")                  # H11
        h.need(h.record_size <= offset <= self.prologue.header_size - count * stride, "bad_offset", name + "_offset")   # H12
        rows = layout.read_all(self.data, 64 + offset, count, stride)
        for row in rows:
            row.need_reserved_zero()                                                                 # H13
        return rows

    def check_identity(self):
        for before, row in zip([0] + [row.field_id for row in self.identity], self.identity):
            row.need(row.field_id > before, "corrupt", "field_id")                                   # H14
            row.need(1 <= row.value_type <= 4, "bad_enum", "value_type")                             # H15
            row.need(row.value_type == IDENTITY_TYPES.get(row.field_id, row.value_type), "corrupt", "value_type")   # H16
            row.need(row.value_offset + row.value_size <= self.prologue.header_size, "bad_offset", "value_offset")  # H17
            row.need(row.value_size == {2: 8, 3: 8, 4: 16}.get(row.value_type, row.value_size), "bad_size", "value_size")
            value = self.data[64 + row.value_offset:][:row.value_size]
            row.need(row.value_type != VALUE_TYPES["text"] or is_text(value), "corrupt", "value_offset")   # H19

    def check_segments(self):
        end = 0
        total = self.header.token_count
        for row in self.segments:
            row.need(row.chunk_order <= 1, "bad_enum", "chunk_order")                                # H20
            row.need(row.first_token == end, "corrupt", "first_token")                               # H21
            end += row.token_count
            empty_card = total == 0 and len(self.segments) == 1
            row.need((row.token_count > 0 or empty_card) and end <= total, "corrupt", "token_count")  # H22
        need(self.segments and end == total, "corrupt", 64 + self.header.segment_offset)             # H23

    def check_stream(self, s):
        for field, numbers in (("stream", range(4)), ("dtype", DTYPES), ("rope_state", range(3)), ("rope_pairing", range(3))):
            s.need(getattr(s, field) in numbers, "bad_enum", field)                                  # H24
        ascends = (s.layer, s.stream) > next(reversed(self.index), (-1, -1))
        s.need(ascends and s.layer < self.header.layer_count, "corrupt", "layer")                    # H25
        if s.stream == OPAQUE:
            s.need(s.opaque_size > 0, "bad_size", "opaque_size")                                     # H26
            zeros = (s.rope_state, s.rope_pairing, s.kv_head_count, s.head_dim, s.window, s.first_token, s.token_count,
                     s.part_first, s.part_count)
            s.need(s.dtype == BYTES and s.hadamard_size == 1 and not any(zeros), "corrupt", "stream")    # H27
            return
        s.need(s.dtype != BYTES, "bad_enum", "dtype")                                                # H28
        s.need(s.opaque_size == 0, "bad_size", "opaque_size")                                        # H29
        whole = row_elements(s) % block_elements(s.dtype) == 0
        s.need(0 < row_elements(s) <= ROW_VALUES and whole, "bad_size", "head_dim")                  # H30, H31
        s.need(is_power_of_two(s.hadamard_size) and s.head_dim % s.hadamard_size == 0, "corrupt", "hadamard_size")   # H32
        s.need(s.first_token + s.token_count <= self.header.token_count, "corrupt", "token_count")   # H33
        s.need(s.stream != LATENT or s.kv_head_count == 1, "corrupt", "kv_head_count")               # H34
        s.need(s.part_count > 0 or s.part_first == 0, "corrupt", "part_first")                       # H35
        s.need(s.part_count == 0 or s.part_first + s.part_count <= len(self.parts), "bad_offset", "part_first")   # H36
        end = 0
        for part in self.parts[s.part_first:s.part_first + s.part_count]:
            part.need(part.rotated <= 1, "bad_enum", "rotated")                                      # H37
            part.need(part.offset == end and part.width > 0, "corrupt", "offset")                    # H38
            end += part.width
        s.need(s.part_count == 0 or end == s.head_dim, "corrupt", "part_count")                      # H39

    def check_frame(self, place):
        need(self.size >= place + FRAME_HEADER.size, "truncated", self.size)                         # F1
        f = FRAME_HEADER.read(self.data, place)
        f.need(f.check == check32(self.data[place:place + 124]), "checksum_mismatch", "check")       # F2
        f.need_reserved_zero()                                                                       # F3
        f.need(f.offset == place, "bad_offset", "offset")                                            # F4
        f.need(len(self.frames) < LIMITS["frame_count"], "limit_exceeded", "section_type")           # F5
        f.need(f.flags < 4, "reserved_not_zero", "flags")                                            # F6
        known = f.section_type in SECTIONS
        f.need(known or not f.flags & 1, "unsupported_feature", "section_type")                      # F7
        limit = {SUMMARY: LIMITS["summary_bytes"], DIRECTORY: 134217728}.get(f.section_type, LIMITS["section_bytes"])
        f.need(f.stored_size <= limit, "limit_exceeded", "stored_size")                              # F8
        f.need(f.decoded_size <= limit, "limit_exceeded", "decoded_size")
        chunk = f.section_type == CHUNK
        f.need(f.digest_size == f.stored_size or chunk and f.codec == PLANES and f.digest_size < f.stored_size, "bad_size",
               "digest_size")                                                                        # F25
        f.need(known or (SUMMARY, NONE32) not in self.first, "corrupt", "section_type")              # F9
        if known:
            self.check_known_frame(f, SECTIONS[f.section_type])
        if chunk:
            self.check_chunk(f)
        elif known:
            f.need(f.codec == 0, "corrupt", "codec")                                                 # F22
            f.need(f.dtype == BYTES, "corrupt", "dtype")                                             # F23
            f.need(f.parameter_digest == 0 and f.map_digest == 0, "corrupt", "parameter_digest")     # F24
        self.check_content(f, self.index[f.layer, f.stream] if chunk else None)
        self.first.setdefault((f.section_type, f.segment), f)
        self.frames.append(bytes(self.data[place:place + FRAME_HEADER.size]))
        return place + FRAME_HEADER.size + align64(f.stored_size)

    def check_known_frame(self, f, section):
        f.need(f.flags == SECTION_FLAGS[section["flags"]], "corrupt", "flags")                       # F10
        f.need(f.compressor <= 2, "unsupported_codec", "compressor")                                 # F11
        f.need(f.compressor == 0 or f.section_type not in (SUMMARY, DIRECTORY), "corrupt", "compressor")   # F12
        f.need(f.compressor != 0 or f.decoded_size == f.stored_size, "bad_size", "decoded_size")     # F13
        f.need(self.may_stand_here(f, section), "corrupt", "section_type")                           # F14
        f.need((f.section_type, f.stored_digest) not in self.named or f.section_type == POSITIONS, "corrupt", "stored_digest")
        card, stream = section["scope"] == "card", section["scope"] == "stream"
        f.need(f.segment == NONE32 if card else f.segment < len(self.segments), "corrupt", "segment")   # F16
        names_layer = stream or f.section_type == ROPE_TABLE and f.layer != NONE32
        f.need(f.layer < self.header.layer_count if names_layer else f.layer == NONE32, "corrupt", "layer")   # F17
        f.need(stream or f.stream == NONE8, "corrupt", "stream")                                     # F18
        if not stream:
            segment = self.segments[f.segment] if section["spans"] == "yes" else None
            span = (segment.first_token, segment.token_count) if segment else (0, 0)
            f.need((f.first_token, f.token_count) == span, "corrupt", "first_token")                 # F19
        f.need(f.section_type != TOKEN_IDS or f.decoded_size == 4 * f.token_count, "bad_size", "decoded_size")   # F20
        wanted = (stream and f.codec == GGML) | (f.compressor > 0) << 1 | (stream and f.codec == PLANES) << 2
        wanted |= (stream and f.codec == ENTROPY) << 3
        missing = wanted & ~self.prologue.required_features
        if section["feature"] != "-":
            kind, bit = FEATURES[section["feature"]]
            missing |= not getattr(self.prologue, kind + "_features") >> bit & 1
        f.need(not missing, "corrupt", "section_type")                                               # F21

    def may_stand_here(self, f, section):
        again = section["once"] == "yes" and (f.section_type, f.segment) in self.first
        refused = self.layout is None if f.section_type == SOURCE_BYTES else f.section_type == TOKEN_IDS and self.header.flags & 4
        return ((SUMMARY, NONE32) in self.first) == (f.section_type == DIRECTORY) and not again and not refused

    def check_chunk(self, f):
        number = self.index.get((f.layer, f.stream))
        f.need(number is not None, "corrupt", "stream")                                              # C1
        s = self.streams[number]
        if s.stream == OPAQUE:
            zeros = (f.codec, f.parameter_digest, f.map_digest, f.first_token, f.token_count)
            f.need(f.dtype == BYTES and not any(zeros), "corrupt", "codec")                          # C2
            f.need(0 < f.decoded_size <= s.opaque_size - self.reached[number], "bad_size", "decoded_size")   # C3
            return
        f.need(f.codec <= ENTROPY, "unsupported_codec", "codec")                                      # C4
        f.need(f.dtype == s.dtype, "corrupt", "dtype")                                               # C5
        blocks = block_elements(f.dtype) > 1
        f.need(f.codec == GGML or not blocks, "corrupt", "codec")                                    # C6
        lossy = f.codec in (PLANES, ENTROPY)
        f.need(not lossy or f.compressor == 0, "corrupt", "compressor")                      # C13
        f.need(f.compressor != 2 or not blocks, "corrupt", "compressor")                             # C7
        f.need(f.segment in self.maps and f.map_digest == self.maps[f.segment].digest, "corrupt", "map_digest")   # C8
        needs_parameters = lossy or s.hadamard_size > 1
        named = (PARAMETERS, f.parameter_digest) in self.named
        f.need(named if needs_parameters else f.parameter_digest == 0, "corrupt", "parameter_digest")    # C9
        segment, end = self.segments[f.segment], f.first_token + f.token_count
        inside = segment.first_token <= f.first_token and end <= segment.first_token + segment.token_count
        f.need(f.token_count > 0 and inside, "corrupt", "token_count")                               # C10
        follows = f.first_token == self.reached[number] and end <= s.first_token + s.token_count
        f.need(follows, "corrupt", "first_token")                                                    # C11
        f.need(lossy or f.decoded_size == f.token_count * row_bytes(s), "bad_size", "decoded_size")      # C12
        strips = s.kv_head_count * ((s.head_dim + 63) // 64 + max(s.part_count, 1) - 1)
        large = f.codec == ENTROPY and 256 * f.token_count * strips > LIMITS["section_bytes"]
        f.need(not large, "limit_exceeded", "token_count")                                           # C14

    def check_content(self, f, number):
        """number: the stream's index where it is a chunk."""
        place = f.place + FRAME_HEADER.size
        values = number is not None and self.streams[number].stream != OPAQUE
        directory = f.section_type == DIRECTORY
        if values:
            sections.check_chunk_context(self, f, number)                                            # S1, S2, S10, S11, S13, S14
        f.need(not directory or f.stored_size == FRAME_HEADER.size * len(self.frames), "bad_size", "stored_size")   # S3
        need(place + f.stored_size <= self.size, "truncated", self.size)                             # S4
        payload = self.data[place:place + f.stored_size]
        need(f.stored_digest == digest64(payload[:f.digest_size]), "checksum_mismatch", place)       # S5
        need(place + align64(f.stored_size) <= self.size, "truncated", self.size)                    # S6
        self.need_padding(place + f.stored_size)
        need(not directory or payload == b"".join(self.frames), "corrupt", place)                    # S7
        if f.section_type in SECTIONS:
            try:
                payload = compressors.undo(f.compressor, payload, f.decoded_size, DTYPES[f.dtype][2])    # S8
                sections.check(self, f, payload)                                                     # S9
            except compressors.Broken:
                raise Defect("corrupt", place) from None
            except Defect as defect:
                raise Defect(defect.name, place) from None
        if number is not None:
            if f.codec == PLANES:
                sections.check_planes_head(f, self.streams[number], payload, place)                  # S12
            if f.codec == ENTROPY:
                entropy.check_payload(f, self.streams[number], payload, place)                       # S15, S16
            self.reached[number] += f.token_count if values else f.decoded_size
            self.chunks.append((f, number, payload))
        self.count(f, number if values else None)

    def count(self, f, number):
        """What the summary counts: FORMAT.md#summary-section."""
        framing = FRAME_HEADER.size + align64(f.stored_size) - f.stored_size
        stage = self.stages[f.section_type, f.codec, f.compressor]
        stage[:] = map(sum, zip(stage, (1, f.stored_size, f.decoded_size, framing)))
        if number is not None:
            self.value_count += f.token_count * row_elements(self.streams[number])
            for width in f.widths:
                self.widths[f.stream, width] += f.width_values
        elif f.section_type == CHUNK:
            self.opaque_size += f.decoded_size

    def check_end(self, place):
        directory = self.first[DIRECTORY, NONE32].place
        for s, reached in zip(self.streams, self.reached):
            end = s.opaque_size if s.stream == OPAQUE else s.first_token + s.token_count
            need(reached == end, "corrupt", directory)                                               # E1
        wanted = (POSITIONS, MAP) if self.header.flags & 4 else (POSITIONS, MAP, TOKEN_IDS)
        for pair in ((kind, i) for i in range(len(self.segments)) for kind in wanted):
            need(pair in self.first, "corrupt", directory)                                           # E2
        need(self.layout is None or self.literal_size == self.layout.literal_size, "corrupt", directory)   # E3
        end = place + LAYOUTS["trailer"].size
        need(self.size >= end, "truncated", self.size)                                               # E4
        t = self.trailer = LAYOUTS["trailer"].read(self.data, place)
        t.need(t.end_magic == b"KVCEND\r\n", "truncated", "end_magic")                               # E5
        t.need(t.check == check32(self.data[place:place + 52]), "checksum_mismatch", "check")        # E6
        t.need_reserved_zero()                                                                       # E7
        t.need(t.summary_offset == self.first[SUMMARY, NONE32].place, "bad_offset", "summary_offset")    # E8
        t.need(t.directory_offset == directory, "bad_offset", "directory_offset")
        t.need(t.frame_count == len(self.frames), "corrupt", "frame_count")                          # E9
        t.need(t.file_size == end, "bad_size", "file_size")                                          # E10
        covered = [self.data[:64 + align64(self.prologue.header_size)], *self.frames, self.data[place:place + 32]]
        t.need(t.root == xxhash.xxh3_128_digest(b"".join(covered)), "checksum_mismatch", "root")     # E11
        need(self.size == end, "corrupt", end)                                                       # E12

def verify(data):
    """("ok", None), or the first defect in file order as (error name, offset)."""
    try:
        Card(data).walk()
    except Defect as defect:
        return defect.name, defect.offset
    return "ok", None
