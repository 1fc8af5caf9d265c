"""The ids of very many jobs, in little memory."""

from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from typing import Self, overload

from rayhaul.ids import ID_BYTES, pack, unpack

_PREFIX = "job"


class JobIds(Sequence[str]):
    """An immutable list of ids: 16 bytes each, up to 18 with room from growing; a list of texts has about 90.

    It equals any sequence with the same ids in the same order, and is made into text again as it is read. An id of
    another form than this package makes is kept as the text it is.
    """

    __slots__ = ("_others", "_packed")

    def __init__(self, job_ids: Iterable[str] = ()) -> None:
        #: In rows of ID_BYTES; a row of an id that has another form says nothing.
        self._packed = bytearray()
        #: By row.
        self._others: dict[int, str] = {}
        self._take(job_ids)

    @classmethod
    async def of_batches(cls, batches: AsyncIterable[Iterable[str]]) -> Self:
        made = cls()
        async for batch in batches:
            made._take(batch)
        return made

    def _take(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            row = pack(_PREFIX, job_id)
            if row is None:
                self._others[len(self)] = job_id
            self._packed += row or bytes(ID_BYTES)

    def __len__(self) -> int:
        return len(self._packed) // ID_BYTES

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "JobIds": ...
    def __getitem__(self, index: int | slice) -> "str | JobIds":
        rows = range(len(self))
        return JobIds(map(self._at, rows[index])) if isinstance(index, slice) else self._at(rows[index])

    def _at(self, row: int) -> str:
        if row in self._others:
            return self._others[row]
        return unpack(_PREFIX, self._packed[row * ID_BYTES : (row + 1) * ID_BYTES])

    def __iter__(self) -> Iterator[str]:
        return map(self._at, range(len(self)))

    def __contains__(self, job_id: object) -> bool:
        row = pack(_PREFIX, job_id) if isinstance(job_id, str) else None
        return job_id in self._others.values() if row is None else self._has(row)

    def _has(self, row: bytes) -> bool:
        """Look for the bytes: making a million texts takes seconds."""
        found = self._packed.find(row)
        while found >= 0 and (found % ID_BYTES or found // ID_BYTES in self._others):
            found = self._packed.find(row, found + 1)
        return found >= 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JobIds):
            return (self._packed, self._others) == (other._packed, other._others)
        if not isinstance(other, Sequence) or isinstance(other, str | bytes | bytearray):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    #: Equal to lists, which have none.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        match len(self):
            case 0:
                return "<no job ids>"
            case 1:
                return f"<1 job id: {self[0]}>"
            case count:
                return f"<{count:,} job ids: {self[0]} … {self[-1]}>"
