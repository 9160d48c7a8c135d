"""An entity as one archive: pack and unpack.

`pack` is deterministic: equal entities give equal bytes. `unpack` trusts nothing: it returns an
entity that MLflow's file store can read or raises `BrokenEntityError` with the reason, it never
writes a file, and it reads no more than `MAX_BYTES`, or than this machine has room for, however
small the archive looks. tar.gz came out smallest of what was measured (a run of 62 entries: 7.6
kB; zip 12.5 kB; loose files 15.6 kB). docs/bucket-format.md specifies it.
"""

import gzip
import io
import json
import os
import re
import tarfile
import threading
import zlib
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache

from kaggleops.layout import ARTIFACTS, EntityId, Kind
from kaggleops.mlruns.entity import FOLDERS, META, NOTES, BrokenEntityError, Entity, Notes
from kaggleops.mlruns.validation import check_entity
from kaggleops.platforms.machine import memory
from kaggleops.printable import quoted

_BLOCK = 512
# Mode, owner, group; size; time; checksum: octal numbers.
_NUMBERS = re.compile(rb"(?:[0-7]{7}\0){3}([0-7]{11})\0[0-7]{11}\0([0-7]{6})\0 ")
_AFTER_TYPE = b"\0" * 100 + b"ustar\x0000" + b"\0" * 247
_SUM_AFTER_TYPE = sum(_AFTER_TYPE)
_FILE, _FOLDER = b"0", b"5"


def read_plain_tar(content: bytes, most: int) -> list[tuple[str, bytes | None]] | None:
    """Return at most so many entries of a tar archive: names and contents, None for a folder.

    Three times as fast as tarfile: a run is some 66 entries, and reading their headers was most of
    what unpacking it took. Only headers exactly as `pack` writes them for a short ASCII name are
    understood. For any other archive, and in every doubt, the answer is None, and tarfile decides.
    """
    entries: list[tuple[str, bytes | None]] = []
    at = 0
    while len(entries) <= most:
        header = content[at : at + _BLOCK]
        at += _BLOCK
        entry = _plain_header(header)
        if entry is None:
            ended = len(header) == _BLOCK and not header.strip(b"\0")
            return entries if ended and not content[at:].strip(b"\0") else None
        name, size = entry
        if at + (size or 0) > len(content):
            return None
        entries.append((name, None if size is None else content[at : at + size]))
        at += -(-(size or 0) // _BLOCK) * _BLOCK
    return None


@lru_cache(8192)  # the runs of a project have the same headers, thousands of times
def _plain_header(header: bytes) -> tuple[str, int | None] | None:
    """Return an entry's name, and its size unless it is a folder; None for any other header."""
    numbers = _NUMBERS.fullmatch(header, 100, 156)
    if numbers is None:
        return None
    name, kind, size = header[:100].rstrip(b"\0"), header[156:157], int(numbers[1], 8)
    # As if its own eight characters were spaces; what is always the same is added up once.
    checksum = sum(name) + sum(header[100:148]) + 8 * ord(" ") + sum(kind) + _SUM_AFTER_TYPE
    doubtful = b"\0" in name or not name.isascii() or header[157:] != _AFTER_TYPE
    if doubtful or not name or checksum != int(numbers[2], 8):
        return None
    if kind == _FILE:
        return name.decode(), size
    if kind == _FOLDER and not size:
        return name.decode().rstrip("/"), None
    return None


MAX_BYTES = 512 << 20
"""The most that an archive may hold unpacked. A run of ten million points takes some 400 MB."""

_PART_OF_MEMORY = 16
"""The part of this machine's memory that an archive may take unpacked; whoever reads it takes four
times as much, and a server has other things to keep as well."""

MAX_ENTRIES = 50_000
MAX_PATH_BYTES = 2_048
MAX_NAME_BYTES = 255  # as file systems have it
MAX_DEPTH = 128  # MLflow's names have at most 250 characters, slashes included

# Deep paths name many folders each; together, no more than this many bytes of names.
_MAX_TREE_BYTES = 64 << 20
# Far more than an entity usually has. Larger ones take turns, so that a dozen of them, each of the
# largest size that is allowed, do not fill the memory at once.
_LARGE = 32 << 20
_PIECE = 8 << 20
_large_one = threading.Lock()


def _let_go_after_fork() -> None:
    # A thread that had it in the parent is not there to let go of it.
    global _large_one
    _large_one = threading.Lock()


os.register_at_fork(after_in_child=_let_go_after_fork)

# What a file's time can be set to: nanoseconds in 64 bits, which end in the year 2262.
_LATEST_NOTED = (1 << 63) // 1_000_000
_MOST_NOTED = 1 << 31
# A sparse file would claim any size with no bytes behind it.
_PLAIN_FILE = (tarfile.REGTYPE, tarfile.AREGTYPE)


def pack(entity: Entity) -> bytes:
    """Return the entity as an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, NOTES, entity.notes.to_bytes())
        for folder in sorted(entity.folders):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for path, data in sorted(entity.files.items()):
            _add(archive, path, data)
    # mtime=0: the time of packing is no part of the content.
    return gzip.compress(buffer.getvalue(), compresslevel=6, mtime=0)


def _add(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))


def unpack(data: bytes, entity_id: EntityId, where: str) -> Entity:
    """Return the entity that an archive from an address holds, or raise BrokenEntityError."""
    doing = f"unpacking {where}"
    with _inflated(data, doing) as content:
        files, folders = _read_tar(content, doing)
    for path in [path for path, data in files.items() if not data and path.startswith("metrics/")]:
        # Left by a kill between making the file and its first point; the file store chokes on it.
        folders.add("metrics")
        del files[path]
    notes = Notes()
    if NOTES in files:
        try:
            notes = Notes.from_json(json.loads(files.pop(NOTES)), doing)
        except (ValueError, RecursionError) as error:
            raise BrokenEntityError(doing, f"its {NOTES} is not JSON ({error})") from error
        _check_notes(notes, doing)
    _check_tree_size(files.keys() | folders, doing)
    entity = Entity(entity_id, files, frozenset(folders), notes)
    check_tree(entity, doing)
    check_entity(entity, doing)
    return entity


def check_size(entity: Entity, doing: str) -> None:
    """Raise `BrokenEntityError` for an entity that is larger than what `unpack` reads."""
    # A header and padding for each, as the archive has them.
    size = sum(len(data) + 1024 for data in entity.files.values())
    if size + 512 * len(entity.folders) > MAX_BYTES:
        raise BrokenEntityError(doing, f"it is larger than {MAX_BYTES >> 20} MiB")


def check_packable(entity: Entity, doing: str) -> None:
    """Raise `BrokenEntityError` for an entity whose archive `unpack` would refuse."""
    for path in entity.files.keys() | entity.folders:
        check_path(path, doing)
    if len(entity.files) + len(entity.folders) >= MAX_ENTRIES:
        raise BrokenEntityError(doing, f"it has more than {MAX_ENTRIES} entries")
    check_size(entity, doing)
    _check_tree_size(entity.files.keys() | entity.folders, doing)
    check_tree(entity, doing)
    check_entity(entity, doing)


@contextmanager
def _inflated(data: bytes, doing: str) -> Iterator[io.BytesIO]:
    inflater, whole = zlib.decompressobj(wbits=31), b""
    with suppress(zlib.error):  # of a small and sound archive, at once
        whole = inflater.decompress(data, min(_PIECE, _LARGE))
    if inflater.eof and not inflater.unused_data:
        yield io.BytesIO(whole)
        return
    del inflater  # it keeps a copy of what it could not read
    size = _inflated_size(data, doing)
    with _large_one if size > _LARGE else nullcontext():
        content = io.BytesIO()
        for piece in _pieces(data):
            content.write(piece)
        content.seek(0)
        yield content


def _inflated_size(data: bytes, doing: str) -> int:
    # Counted before anything is kept: a megabyte can become a gigabyte.
    size, most = 0, min(MAX_BYTES, memory() // _PART_OF_MEMORY)
    try:
        for piece in _pieces(data):
            size += len(piece)
            if size > most:
                raise BrokenEntityError(doing, f"it unpacks to more than {most >> 20} MiB")
    except zlib.error as error:
        raise BrokenEntityError(doing, f"it is not a gzip archive ({error})") from error
    except EOFError as error:
        raise BrokenEntityError(doing, str(error)) from error
    return size


def _pieces(data: bytes) -> Iterator[bytes]:
    inflater = zlib.decompressobj(wbits=31)
    while not inflater.eof:
        piece = inflater.decompress(data, _PIECE)
        data = inflater.unconsumed_tail
        if not piece and not inflater.eof:
            raise EOFError("it is cut off in the middle")
        yield piece
    if inflater.unused_data:
        raise EOFError("something follows the archive")


def _read_tar(content: io.BytesIO, doing: str) -> tuple[dict[str, bytes], set[str]]:
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    if (plain := read_plain_tar(content.getvalue(), MAX_ENTRIES - 1)) is not None:
        for name, data in plain:
            _check_new(name, folders if data is None else files.keys(), doing)
            if data is None:
                folders.add(name)
            else:
                files[name] = data
        return files, folders
    try:
        with tarfile.open(fileobj=content, mode="r:") as archive:
            while (info := archive.next()) is not None:
                # Else it remembers every entry, at ten times its size.
                archive.members.clear()  # type: ignore[attr-defined]
                if len(files) + len(folders) >= MAX_ENTRIES:
                    raise BrokenEntityError(doing, f"it has more than {MAX_ENTRIES} entries")
                if info.isdir():
                    _check_new(info.name, folders, doing)
                    folders.add(info.name)
                elif info.type in _PLAIN_FILE and info.sparse is None:
                    _check_new(info.name, files.keys(), doing)
                    files[info.name] = _content(content, info, doing)
                else:
                    problem = f"{quoted(info.name)} is neither a file nor a folder"
                    raise BrokenEntityError(doing, problem)
            # tarfile takes a damaged header for the end.
            content.seek(archive.offset)
            if content.read().strip(b"\0"):
                raise BrokenEntityError(doing, "what follows its last readable entry is damaged")
    except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError) as error:
        raise BrokenEntityError(doing, f"it is not a readable tar archive ({error})") from error
    return files, folders


def _check_new(name: str, known: Container[str], doing: str) -> None:
    check_path(name, doing)
    if name in known:
        raise BrokenEntityError(doing, f"it holds {quoted(name)} twice")


def _content(tar: io.BytesIO, info: tarfile.TarInfo, doing: str) -> bytes:
    # Not tarfile's own reader: it takes as long to make one as to read the header.
    with tar.getbuffer() as buffer:
        content = bytes(buffer[info.offset_data : info.offset_data + info.size])
    if len(content) != info.size:
        raise BrokenEntityError(doing, f"{quoted(info.name)} is cut off")
    return content


def _check_notes(notes: Notes, doing: str) -> None:
    stamps = notes.registers.values()
    times = (*notes.written.values(), *notes.deleted.values(), *(each.at for each in stamps))
    counts = (notes.promise, *(number for each in stamps for number in (each.round, each.rank)))
    if not (
        all(0 <= time <= _LATEST_NOTED for time in (*times, notes.heartbeat))
        and all(0 <= count <= _MOST_NOTED for count in counts)
    ):
        raise BrokenEntityError(doing, f"its {NOTES} holds times that never were")
    for path in (*notes.written, *notes.deleted):
        check_path(path, doing)


def check_path(path: str, doing: str) -> None:
    """Raise `BrokenEntityError` for a path that leads out or that no file system takes."""
    if problem := _problem_of_path(path):
        raise BrokenEntityError(doing, problem)


@lru_cache(4096)  # the runs of a project have the same paths, thousands of times
def _problem_of_path(path: str) -> str:
    parts = path.split("/")
    try:
        encoded = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return f"the name {quoted(path)} is not Unicode"
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        return f"the name {quoted(path)} leads out of its folder"
    too_long = max(encoded) > MAX_NAME_BYTES or sum(encoded) > MAX_PATH_BYTES
    if too_long or len(parts) > MAX_DEPTH:
        return f"the name {quoted(path)} is too long"
    if parts[0] == ARTIFACTS and len(parts) > 1:
        return f"{quoted(path)}: artifacts do not belong in it"
    if parts[0].startswith(NOTES) and path != NOTES:
        return f"{quoted(path)} takes the place of the notes"
    return ""


def _check_tree_size(paths: Iterable[str], doing: str) -> None:
    if sum(path.count("/") * len(path) for path in paths) > _MAX_TREE_BYTES:
        raise BrokenEntityError(doing, "it has too many folders within folders")


def check_tree(entity: Entity, doing: str) -> None:
    """Raise `BrokenEntityError` where a path is both a file and a folder, or another entity's."""
    folders = entity.folders | FOLDERS.get(entity.id.kind, frozenset()) | {ARTIFACTS, NOTES}
    if both := folders & entity.files.keys():
        raise BrokenEntityError(doing, f"{quoted(min(both))} is both a file and a folder")
    if NOTES in entity.folders:
        raise BrokenEntityError(doing, f"{NOTES!r} is both a file and a folder")
    if entity.id.kind is Kind.EXPERIMENT:
        # In its folder lie its runs, models, traces and datasets: entities of their own.
        for path in entity.files.keys() | entity.folders:
            if path != META and path.split("/", 1)[0] != "tags":
                raise BrokenEntityError(doing, f"{quoted(path)} is no part of an experiment")
