"""An index on the disk: columns of numbers, memory-mapped, so that all workers of a node share one copy.

The rule: a file never changes once it has its name. A newer one takes its place as a whole, and whoever still
reads the older one keeps it.

One entry per association, in the order of association ids; one table per live pepper, in the order of keys:

    entries   ids, not_before, not_after, user_start, user_length, visibility    and all Matrix IDs, one after the other
    table     first and second half of each key, the row of the entry that it stands for, and where to begin looking

That is 53 to 55 bytes per association with one pepper, beside the Matrix ID.

What a lookup costs is not computing but waiting for memory. So a key is not searched for by halving, each step of which
would wait, but gone to: its first bits say where its neighbours begin, and those are compared all at once. And what a
lookup needs is fetched by one numpy call for all its keys, so that the processor waits for many places together.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson

from identity_server.domain.association import Visibility
from identity_server.domain.identifiers import UserId
from identity_server.domain.written_hashes import Bytes
from identity_server.index.keys import Halves

Column = npt.NDArray[Any]

_MAGIC = b"matrix identity index 4\n"
_FRONT = struct.Struct("<QQ")
_ALIGNMENT = 64
_HALVES = struct.Struct("=QQ")
_ENTRY_COLUMNS = ("ids", "not_before", "not_after", "user_start", "user_length", "visibility")
_TABLE_COLUMNS = ("first", "second", "entry", "starts")
_KEY_BITS = 64
_NEIGHBOURS = 2
"""At most so many keys have the same first bits, on average; keys are as good as random."""
_BETWEEN = tuple(b':"')
_CHECKED_AT_ONCE = 2**20
_LARGEST_START = np.iinfo(np.uint32).max


VISIBILITIES = (Visibility.EVERYONE, Visibility.HOMESERVER, Visibility.NOBODY)
"""By the number that stands for each; 0 must stay the one that nothing has to be asked about."""


class Unusable(Exception):
    """There is no file, or it is damaged, of another format or of another key: it has to be made anew."""


@dataclass(frozen=True, slots=True)
class Table:
    """All associations by their keys under one pepper.

    Attributes:
        starts: by the first bits of a key, where those begin that have the same, or a little before.
        window: from there, they are among so many.
    """

    first: Column
    second: Column
    entry: Column
    starts: Column
    window: int
    _shift: int = field(init=False, repr=False)
    _windows: Column = field(init=False, repr=False)
    # The same memory; a single number is had from these in a third of the time.
    _first: memoryview = field(init=False, repr=False)
    _second: memoryview = field(init=False, repr=False)
    _entry: memoryview = field(init=False, repr=False)
    _starts: memoryview = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in _TABLE_COLUMNS:
            object.__setattr__(self, f"_{name}", getattr(self, name).data)
        object.__setattr__(self, "_shift", _KEY_BITS - (len(self.starts).bit_length() - 1))
        size = self.first.itemsize
        windows = _overlapping(self.first.data, width=self.window * size, step=size)
        object.__setattr__(self, "_windows", windows)

    @classmethod
    def of(cls, keys: Halves, entries: Column) -> Table:
        """Sort keys, each of which stands for an entry."""
        order = np.argsort(keys[:, 0])
        first = keys[order, 0]
        bits = (len(first) // _NEIGHBOURS).bit_length() or 1
        starts = first.searchsorted(np.arange(1 << bits, dtype=np.uint64) << (_KEY_BITS - bits))
        window = int(np.diff(starts, append=len(first)).max())
        # The last windows mustn't reach beyond the end.
        starts = np.minimum(starts, len(first) - window)
        return cls(first, keys[order, 1], entries[order].astype(np.uint32), starts.astype(np.uint32), window)

    def find(self, key: bytes) -> int | None:
        """The entry of one key."""
        first, second = _HALVES.unpack(key)
        start = self._starts[first >> self._shift]
        end = start + self.window
        column = self._first
        place = bisect_left(column, first, start, end)
        # Two keys with the same first half are rarer than one in a thousand indexes, but they may be.
        while place < end and column[place] == first:
            if self._second[place] == second:
                return int(self._entry[place])
            place += 1
        return None

    def find_many(self, keys: Halves) -> tuple[Column, Column]:
        """Which of the keys are there (as places in `keys`), and their entries."""
        if not self.window:
            return np.empty(0, np.int64), np.empty(0, np.uint32)
        first = keys[:, 0]
        starts = self.starts.take((first >> self._shift).view(np.int64))
        neighbours = self._windows[starts].view(np.uint64).reshape(-1, self.window)
        alike = (neighbours == first[:, None]).ravel().nonzero()[0]
        hits, within = np.divmod(alike, self.window)
        places = starts.take(hits) + within
        same = self.second.take(places) == keys[:, 1].take(hits)
        return hits[same], self.entry.take(places[same])


def _overlapping(memory: bytes | memoryview | mmap.mmap, *, width: int, step: int, offset: int = 0) -> Column:
    """What begins at each step of memory, so many bytes of it: numpy copies many such pieces in one call."""
    length = memoryview(memory).nbytes - offset
    return np.ndarray(((length - width) // step + 1,), f"V{width}", memory, offset, (step,))


@dataclass(frozen=True, slots=True)
class Entries:
    """All associations, in the order of their ids.

    Attributes:
        visibility: places in `VISIBILITIES`.
        users: all Matrix IDs, one after the other.
        source: where they are cut out of, being quicker about it than `users`, which starts at `offset` in it.
    """

    ids: Column
    not_before: Column
    not_after: Column
    user_start: Column
    user_length: Column
    visibility: Column
    users: bytes | memoryview = field(repr=False)
    source: bytes | mmap.mmap = field(default=b"", repr=False)
    offset: int = 0
    _user_start: memoryview = field(init=False, repr=False)
    _user_length: memoryview = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_user_start", self.user_start.data)
        object.__setattr__(self, "_user_length", self.user_length.data)

    def user_id(self, entry: int) -> UserId:
        """The Matrix ID of one entry."""
        start = self._user_start[entry]
        start += self.offset
        return UserId(self.source[start : start + self._user_length[entry]].decode())

    def user_ids(self, entries: Column) -> list[UserId]:
        """The Matrix IDs of some entries."""
        if not len(entries):
            return []
        lengths = self.user_length[entries]
        width = int(lengths.max())
        pieces = _overlapping(self.source, width=width, step=1, offset=self.offset)[
            self.user_start[entries]
        ].tobytes()
        places = zip(range(0, len(pieces), width), lengths.tolist(), strict=True)
        # `UserId(...)` for each would cost as much as all the rest.
        if pieces.isascii():
            text = pieces.decode()
            return cast("list[UserId]", [text[start : start + length] for start, length in places])
        return cast("list[UserId]", [pieces[start : start + length].decode() for start, length in places])

    def with_user_ids(self, names: Bytes, entries: Column) -> bytes:
        """Members of a JSON object: to each of some names, the Matrix ID of an entry, none of which needs escaping.

        Args:
            names: in their quotes, a row for each.
            entries: at least one.
        """
        lengths = self.user_length.take(entries)
        width, before = int(lengths.max()), names.shape[1] + len(_BETWEEN)
        members = np.empty((len(entries), before + width), np.uint8)
        members[:, : names.shape[1]] = names
        members[:, names.shape[1] : before] = _BETWEEN
        pieces = _overlapping(self.source, width=width, step=1, offset=self.offset)[self.user_start.take(entries)]
        # What is behind an ID becomes zeros, and numpy leaves zeros at the end of a text out.
        is_of_id = np.arange(width, dtype=np.uint16) < lengths[:, None]
        np.multiply(pieces.view(np.uint8).reshape(-1, width), is_of_id, out=members[:, before:])
        return b'",'.join(members.view(f"S{members.shape[1]}").ravel().tolist()) + b'"'

    def place(self, association_id: int) -> int | None:
        """Where an association's entry is."""
        place = int(self.ids.searchsorted(association_id))
        return place if place < len(self.ids) and self.ids[place] == association_id else None


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file that has been opened, or is to be written.

    Attributes:
        fingerprint: of the lookup key.
        seq: every change up to this number is in here; of later ones, some may be.
        last_change: the association of that change, to tell this database from a copy of it that went another way.
        tables: by pepper.
        always_valid: from when until when no entry's time has to be looked at.
        all_visible: whether everyone may see every entry, so that nobody has to be asked who asks.
        all_plain: whether JSON has every Matrix ID as it is, with nothing to be escaped.
    """

    fingerprint: str
    seq: int
    last_change: int | None
    entries: Entries
    tables: Mapping[str, Table]
    always_valid: tuple[int, int]
    all_visible: bool
    all_plain: bool

    def all_valid(self, now_ms: int) -> bool:
        """Whether all entries count now: nearly always, and then their columns of times aren't even read."""
        return self.always_valid[0] <= now_ms < self.always_valid[1]

    def is_valid(self, entry: int, now_ms: int) -> bool:
        """Whether an entry counts now."""
        return self.all_valid(now_ms) or bool(self.which_valid(np.array([entry]), now_ms)[0])

    def which_valid(self, entries: Column, now_ms: int) -> Column:
        """Which of some entries count now."""
        return (self.entries.not_before[entries] <= now_ms) & (now_ms < self.entries.not_after[entries])

    def shows(self, entry: int, user_id: UserId, *, asker: UserId | None) -> bool:
        """Whether somebody may see an entry, which is of this Matrix ID."""
        return self.all_visible or VISIBILITIES[self.entries.visibility[entry]].shows(user_id, asker=asker)

    def hidden(self, entries: Column) -> Column:
        """Which of some entries not everyone may see, as places in `entries`."""
        return self.entries.visibility[entries].nonzero()[0]

    @property
    def size(self) -> int:
        """How many bytes the file has that it was read from."""
        return len(self.entries.source)

    def write(self, path: Path) -> None:
        """Put it in the place of what is there, in one step."""
        columns = {f"entries.{name}": getattr(self.entries, name) for name in _ENTRY_COLUMNS}
        columns["users"] = np.frombuffer(self.entries.users, np.uint8)
        for number, table in enumerate(self.tables.values()):
            columns |= {f"table{number}.{name}": getattr(table, name) for name in _TABLE_COLUMNS}
        described, offset, checksum = [], 0, 0
        for name, column in columns.items():
            described.append([name, column.dtype.str, len(column), offset])
            offset += _padded(column.nbytes)
            checksum = zlib.crc32(column.data.cast("B") if column.nbytes else b"", checksum)
        longest = int(self.entries.user_length.max(initial=0))
        head = {
            "fingerprint": self.fingerprint,
            "seq": self.seq,
            "last_change": self.last_change,
            "tables": [[pepper, table.window] for pepper, table in self.tables.items()],
            "always_valid": self.always_valid,
            "all_visible": self.all_visible,
            "all_plain": self.all_plain,
            "columns": described,
            "checksum": checksum,
        }
        written = _in_front(head)
        new = path.with_name(f"{path.name}.new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(written)
            for column in columns.values():
                file.write(column.data)
                file.write(bytes(_padded(column.nbytes) - column.nbytes))
            # The last Matrix ID is read as far as the longest would go.
            file.write(bytes(longest))
        new.replace(path)


def open_index_file(path: Path, *, fingerprint: str) -> IndexFile:
    """Map a file into memory, and make sure that it is whole.

    Raises:
        Unusable: it has to be made anew.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise Unusable(f"it can't be opened: {error}") from None
    memory = memoryview(mapped)
    head, start = _read_head(memory)
    if head["fingerprint"] != fingerprint:
        raise Unusable("it was made with another key")
    columns, checksum = {}, 0
    for name, kind, length, offset in head["columns"]:
        try:
            column = np.frombuffer(memory, kind, length, start + offset)
        except ValueError:
            raise Unusable("it has been cut off") from None
        checksum = zlib.crc32(column.data.cast("B") if column.nbytes else b"", checksum)
        columns[name] = column
    if checksum != head["checksum"]:
        raise Unusable("it is damaged")
    # What was read for the checksum alone needn't stay in this process's memory.
    mapped.madvise(mmap.MADV_DONTNEED)
    entries = Entries(
        **{name: columns[f"entries.{name}"] for name in _ENTRY_COLUMNS},
        users=columns["users"].data,
        source=mapped,
        offset=next(start + offset for name, _, _, offset in head["columns"] if name == "users"),
    )
    tables = {
        pepper: Table(**{name: columns[f"table{number}.{name}"] for name in _TABLE_COLUMNS}, window=window)
        for number, (pepper, window) in enumerate(head["tables"])
    }
    first, last = head["always_valid"]
    return IndexFile(
        fingerprint=fingerprint,
        seq=head["seq"],
        last_change=head["last_change"],
        entries=entries,
        tables=tables,
        always_valid=(first, last),
        all_visible=head["all_visible"],
        all_plain=head["all_plain"],
    )


def is_plain(text: bytes | memoryview) -> bool:
    """Whether JSON has a text in UTF-8 as it is, with nothing to be escaped."""
    for start in range(0, len(text), _CHECKED_AT_ONCE):
        some = np.frombuffer(text[start : start + _CHECKED_AT_ONCE], np.uint8)
        if ((some < ord(" ")) | (some == ord('"')) | (some == ord("\\"))).any():
            return False
    return True


def starts_column(starts: Column) -> Column:
    """Where Matrix IDs start, in as few bytes as will do."""
    small = not len(starts) or starts.max() <= _LARGEST_START
    return starts.astype(np.uint32 if small else np.uint64)


def _in_front(head: dict[str, Any]) -> bytes:
    text = orjson.dumps(head)
    front = _MAGIC + _FRONT.pack(len(text), zlib.crc32(text)) + text
    return front.ljust(_padded(len(front)), b"\0")


def _read_head(memory: memoryview) -> tuple[dict[str, Any], int]:
    start = len(_MAGIC) + _FRONT.size
    if memory[: len(_MAGIC)] != _MAGIC or len(memory) < start:
        raise Unusable("it has another format")
    length, checksum = _FRONT.unpack_from(memory, len(_MAGIC))
    text = memory[start : start + length]
    if zlib.crc32(text) != checksum:
        raise Unusable("it is damaged")
    head: dict[str, Any] = orjson.loads(text)
    return head, _padded(start + length)


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
