"""The directory of a zip archive whose entries are stored as they are, as torch.save writes it.

Nothing is unpacked: an entry is a range of the file. What could make an archive larger than itself is refused:
compression, overlapping entries, links, more entries than any checkpoint has.
"""

from __future__ import annotations

import stat
import struct

from legato.models.containers.source import FETCH_AGAIN, Source, excerpt

MAX_ENTRIES = 20_000
MAX_DIRECTORY_BYTES = 8 * 2**20
END, END64, LOCATOR64, ENTRY, LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
COMMENT_BYTES = 2**16  # at the most, after the end record
FULL16, FULL32 = 2**16 - 1, 2**32 - 1  # "look in the zip64 extra field"

Range = tuple[int, int]  # offset and size in the file, bytes


def read_directory(source: Source) -> dict[str, Range]:
    """Where each entry's bytes lie. Raises ModelFileError."""
    offset, size, count = _end(source)
    if count > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        raise source.refusal(f"is a zip archive of {count} entries; at most {MAX_ENTRIES} are read. {FETCH_AGAIN}")
    directory = source.read(offset, size)
    entries: dict[str, Range] = {}
    position = 0
    for _ in range(count):
        if directory[position : position + 4] != ENTRY or position + 46 > size:
            raise source.damaged("the directory of its zip archive is cut off")
        name, found, position = _entry(source, directory, position)
        if name in entries:
            raise source.refusal(f"is a zip archive that holds {excerpt(name)} twice. {FETCH_AGAIN}")
        entries[name] = found
    _check_apart(source, entries)
    return entries


def _end(source: Source) -> tuple[int, int, int]:
    """Offset, size and number of entries of the central directory."""
    tail_size = min(source.size, COMMENT_BYTES + 22)
    tail = source.read(source.size - tail_size, tail_size)
    at = tail.rfind(END)
    if at < 0 or at + 22 > len(tail):
        raise source.damaged("it begins like a zip archive and has no end of one: part of it is missing")
    disk, first_disk, here, count, size, offset = struct.unpack_from("<HHHHII", tail, at + 4)
    if at >= 20 and tail[at - 20 : at - 16] == LOCATOR64:
        (where,) = struct.unpack_from("<Q", tail, at - 12)
        record = source.read(where, 56)
        if record[:4] != END64:
            raise source.damaged("its zip archive has no zip64 directory where it says")
        disk, first_disk, here, count, size, offset = struct.unpack_from("<IIQQQQ", record, 16)
    if disk or first_disk or here != count:
        raise source.refusal(f"is a zip archive in several parts; one file was wanted. {FETCH_AGAIN}")
    return offset, size, count


def _entry(source: Source, directory: bytes, position: int) -> tuple[str, Range, int]:
    """Name and range of the entry at `position` of the directory, and where the next one begins."""
    fields = struct.unpack_from("<HHHHHHIIIHHHHHII", directory, position + 4)
    flags, method = fields[2], fields[3]
    stored, size, name_size, extra_size, comment_size, attributes, local = *fields[7:12], fields[14], fields[15]
    start = position + 46
    raw = directory[start : start + name_size]
    extra = directory[start + name_size : start + name_size + extra_size]
    following = start + name_size + extra_size + comment_size
    if following > len(directory):
        raise source.damaged("the directory of its zip archive is cut off")
    name = raw.decode("utf-8", "replace")
    if FULL32 in (stored, size, local):
        size, stored, local = _zip64(source, extra, size, stored, local)
    if method != 0 or size != stored:
        raise source.refusal(
            f"holds the compressed entry {excerpt(name)}; torch.save stores entries as they are, so that none can grow "
            "when it is unpacked. Load and save it again with torch"
        )
    if flags & 0x41:
        raise source.refusal(f"holds the encrypted entry {excerpt(name)}. Save it without a password")
    if stat.S_ISLNK(attributes >> 16):
        raise source.refusal(f"holds the link {excerpt(name)}; files alone were wanted. {FETCH_AGAIN}")
    header = source.read(local, 30)
    local_name_size, local_extra_size = struct.unpack_from("<HH", header, 26)
    if header[:4] != LOCAL or source.read(local + 30, local_name_size) != raw:
        raise source.damaged(f"the entry {excerpt(name)} of its zip archive is not where the directory says")
    begin = local + 30 + local_name_size + local_extra_size
    source.check_range(begin, size)
    return name, (begin, size), following


def _zip64(source: Source, extra: bytes, *values: int) -> tuple[int, int, int]:
    """Size, stored size and offset, those of them that did not fit in 32 bits from the extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            numbers = [n for (n,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])]
            wide = [numbers.pop(0) if value == FULL32 and numbers else value for value in values]
            return wide[0], wide[1], wide[2]
        at += 4 + length
    raise source.damaged("an entry of its zip archive has no size")


def _check_apart(source: Source, entries: dict[str, Range]) -> None:
    end = 0
    for name, (offset, size) in sorted(entries.items(), key=lambda item: item[1]):
        if offset < end:
            raise source.refusal(f"holds entries that overlap at {excerpt(name)}, as zip bombs do. {FETCH_AGAIN}")
        end = offset + size
