"""The sink side of one order: its multipart upload, or its one PUT, up to the published and verified object.

Laws of this file:
1. The scheduler knows an upload before a part is sent, and has agreed to the commit before anything is published.
2. A single PUT takes the place of what stood there when we looked, and of nothing else.
3. Of an earlier attempt, a part counts only when the ledger and the store agree on its number, size and ETag.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from awscrt.checksums import crc32c, crc64nvme

from rayhaul.errors import ChecksumMismatch, Internal, SinkBusy, SinkError, SinkRefused, UploadLost
from rayhaul.ids import IdFactory
from rayhaul.job import JobResult, utc
from rayhaul.lease import PartDone, SessionState, TransferOrder, UploadSession
from rayhaul.tracing import Kind, child
from tasks.bucket_rules import StoredRange
from tasks.checksum import Algorithm, Checksum, combined_crc, combined_crc32c, combined_etag, crc32c_text, crc_text
from tasks.copying import CopyUnknown, copied_part
from tasks.lease_control import LeaseControl, Tries
from tasks.marks import LEASE, SESSION, metadata_of, metadata_of_put
from tasks.outgoing import Body
from tasks.sink import Sink
from tasks.store_calls import Overtaken
from tasks.store_puts import Put
from tasks.stored import ObjectHead, StoredPart
from tasks.stripe import Stripe

_CONTENT_TYPE = "application/octet-stream"

#: An ETag that is the MD5 of one whole.
_MD5 = re.compile("[0-9a-f]{32}")


class Upload:
    def __init__(
        self,
        order: TransferOrder,
        sink: Sink,
        control: LeaseControl,
        *,
        stripe: Stripe,
        tries: Tries,
        expected: Checksum | None,
        clock: Callable[[], float],
    ) -> None:
        self._order = order
        self._sink = sink
        self._control = control
        self._stripe = stripe
        self._tries = tries
        #: What is compared here; what needs the bytes in order is compared where they are hashed.
        self._expected = expected if expected is not None and not expected.needs_order else None
        self._clock = clock
        self._session = order.session
        #: ETag of the object that a single PUT takes the place of; under a key of the job's own nothing is expected.
        self._replaces: str | None = None
        #: Parts that are in the store and known to be right, by number.
        self.done: dict[int, PartDone] = {}
        #: Parts of which the store may have other bytes: a try failed on the way there.
        self._doubtful: set[int] = set()
        #: Earlier parts that the progress counts: at first all that the ledger knows.
        self._counted: Sequence[PartDone] = order.parts_done

    @property
    def has_session(self) -> bool:
        return self._session is not None

    async def open(self, *, parts_count: int | None) -> None:
        """Go on with the order's upload and its parts, or open one; `parts_count` None: begin from the first part.

        Raises: UploadLost; LeaseLost; SinkError.
        """
        if self._session is None:
            self._session = await self._opened()
        elif parts_count is not None:
            self.done = await self._kept(self._session, parts_count)
        self._recount()

    def forget_parts(self) -> None:
        """Begin from the first part again: those sent so far do not count."""
        self._counted = tuple(self.done.values())
        self.done = {}
        self._recount()

    def _recount(self) -> None:
        kept = tuple(self.done.values())
        self._control.progress(self._bytes_of(kept) - self._bytes_of(self._counted))
        self._counted = kept

    def _bytes_of(self, parts: Iterable[PartDone]) -> int:
        return sum(part.size_bytes for part in parts if part.number in self._stripe)

    async def send(self, number: int, size_bytes: int, body: Body, *, source: Callable[[], int]) -> None:
        """Send one part, once, and report it. `source` tells, once it is sent, which of the job's sources it came from.

        Raises: SinkError; LeaseLost; what iterating the body raises.
        """
        session = self._session
        assert session is not None, "not opened"
        self._control.check()
        put = await self._put_part(session, number, size_bytes, body)
        part = PartDone(
            session_id=session.session_id,
            number=number,
            size_bytes=size_bytes,
            etag=put.etag,
            crc64nvme=put.crc64nvme,
            crc32c=put.crc32c,
            source=source(),
        )
        self.done[number] = part
        await self._control.parts_done([part])

    async def copy(self, number: int, wanted: StoredRange) -> None:
        """Have the store make a part of a range of another object, once, and report it.

        Raises: CopyUnknown where the store makes no copies; SourceChanged; SinkError; LeaseLost.
        """
        session = self._session
        assert session is not None, "not opened"
        self._control.check()
        try:
            copied = await copied_part(self._sink, self._order.key, session.upload_id, number, wanted)
        except CopyUnknown:
            # A store that does not know what was asked may have taken it for a part without bytes.
            self._doubtful.add(number)
            raise
        part = PartDone(
            session_id=session.session_id,
            number=number,
            size_bytes=wanted.size_bytes,
            etag=copied.etag,
            crc64nvme=copied.crc64nvme,
            source=self._order.pin.source,
        )
        self.done[number] = part
        self._control.progress(part.size_bytes)
        await self._control.parts_done([part])

    async def _put_part(self, session: UploadSession, number: int, size_bytes: int, body: Body) -> Put:
        try:
            return await self._sink.put_part(
                self._order.key, session.upload_id, number, size_bytes, body, wants_crc32c=self._wants_crc32c
            )
        except SinkRefused as error:
            if error.status == HTTPStatus.NOT_IMPLEMENTED and number in self._doubtful:
                # Rclone passes a first part on as it comes, and takes no other bytes for it: only a new upload helps.
                raise UploadLost("The bucket has other bytes for a part, and does not let it be sent again.") from error
            raise
        except SinkError:
            self._doubtful.add(number)
            raise

    async def commit(self, *, parts_count: int, sha256: str | None, is_copy: bool = False) -> JobResult:
        """Publish the parts as one object and verify it. `is_copy`: they are of an object that was compared already.

        Raises: ChecksumMismatch; LeaseLost; SinkError.
        """
        session = self._session
        assert session is not None, "not opened"
        parts = [self.done[number] for number in range(1, parts_count + 1) if number in self.done]
        if len(parts) != parts_count:
            raise Internal(f"{parts_count - len(parts)} parts are in no stripe of this lease")
        # A store that copies a part by itself may not tell its CRC.
        crc = combined_crc(parts)
        size_bytes = sum(part.size_bytes for part in parts)
        if self._expected is not None and not is_copy:
            self._expected.check(_value_of(parts, self._expected.algorithm))
        with child("complete", Kind.CLIENT, {"parts": parts_count, "bytes": size_bytes}):
            await self._agreed()
            mark = (SESSION, session.session_id)
            told_etag = await self._sink.complete(self._order.key, session.upload_id, parts, crc64nvme=crc, mark=mark)
        with child("verify", Kind.CLIENT, {"bytes": size_bytes}):
            found = await self._verified(session, parts, told_etag, crc)
        crc = found.crc64nvme if crc is None else crc
        sources = Counter[int]()
        for part in parts:
            sources[part.source] += part.size_bytes
        return self._result(size_bytes, found.etag, crc, sha256=sha256, parts_count=parts_count, sources=sources)

    async def put(self, data: bytearray, *, sha256: str | None, source: int = 0) -> JobResult:
        """Publish an object in one PUT; its MD5 goes along, so the store verifies it before it is seen.

        Raises: ChecksumMismatch; LeaseLost; SinkError.
        """
        crc = crc64nvme(data)
        if self._expected is not None:
            is_crc32c = self._expected.algorithm is Algorithm.CRC32C
            self._expected.check(crc32c_text(crc32c(data)) if is_crc32c else crc_text(crc))
        with child("complete", Kind.CLIENT, {"parts": 1, "bytes": len(data)}):
            await self._agreed()
            if not self._is_own_key:
                stands = await self._sink.head(self._order.key)
                self._replaces = None if stands is None else stands.etag
            etag = await self._tries.again(partial(self._put_once, data))
        return self._result(len(data), etag, crc, sha256=sha256, parts_count=1, sources={source: len(data)})

    async def _put_once(self, data: bytearray) -> str:
        """Put the object in the place of what we know to stand there, and of nothing else; return its ETag.

        So an agent that froze before its PUT, and thaws when others have done the job, does not undo their work.
        """
        about: Mapping[str, Any] = {
            "content_type": self._order.pin.content_type or _CONTENT_TYPE,
            "filename": self._order.pin.filename,
            "metadata": metadata_of_put(self._order),
        }
        try:
            return (await self._sink.put(self._order.key, len(data), data, replaces=self._replaces, **about)).etag
        except Overtaken:
            found = await self._sink.head(self._order.key)
            if found is not None and found.metadata.get(LEASE) == self._order.lease_id:
                # It was us: the answer to an earlier try was lost.
                return found.etag
            # The next try is made only while the lease is ours.
            self._replaces = None if found is None else found.etag
            raise

    @property
    def _is_own_key(self) -> bool:
        """Whether no other job can have this key; one that a caller named may be anybody's."""
        return self._order.context.job_id in self._order.key

    async def _opened(self) -> UploadSession:
        order = self._order
        if order.epoch > 1 and self._is_own_key:
            await self._clear_away()
        self._control.check()
        creating = asyncio.ensure_future(self._created())
        try:
            session = await asyncio.shield(creating)
        except asyncio.CancelledError:
            # The store opens it all the same, and nobody else knows of it.
            creating.add_done_callback(self._leave)
            raise
        await self._control.opened(session)
        return session

    async def _created(self) -> UploadSession:
        order = self._order
        session_id = IdFactory(self._clock)("ses")
        upload_id = await self._sink.create(
            order.key,
            content_type=order.pin.content_type or _CONTENT_TYPE,
            filename=order.pin.filename,
            metadata={**metadata_of(order), SESSION: session_id},
        )
        return UploadSession(
            session_id=session_id,
            job_id=order.context.job_id,
            bucket=order.bucket,
            key=order.key,
            upload_id=upload_id,
            part_bytes=order.part_bytes,
            size_bytes=order.pin.size_bytes,
            state=SessionState.OPEN,
            created_at=utc(self._clock()),
        )

    def _leave(self, creating: "asyncio.Future[UploadSession]") -> None:
        if not creating.cancelled() and creating.exception() is None:
            self._control.left(creating.result())

    async def _clear_away(self) -> None:
        """Abort uploads under this job's own key: of an agent that died before it could tell, or that should stop.

        A key that the caller named may be somebody else's too, and is left alone.
        """
        for stranger in await self._sink.list_uploads(self._order.key):
            if stranger.key == self._order.key:
                await self._sink.abort(stranger.key, stranger.upload_id)

    async def _kept(self, session: UploadSession, parts_count: int) -> dict[int, PartDone]:
        known = {
            part.number: part
            for part in self._order.parts_done
            if part.session_id == session.session_id and self._can_tell(part)
        }
        is_whole = self._stripe.is_whole(parts_count)
        if not is_whole and not any(number in self._stripe for number in known):
            # Nothing of an earlier attempt is built on.
            return {}
        try:
            stored = await self._sink.list_parts(self._order.key, session.upload_id)
        except UploadLost:
            if not is_whole or len(known) < parts_count:
                raise
            # It may be gone because it was completed, and the answer was lost: Complete will tell.
            return known
        return {part.number: known[part.number] for part in stored if _is_same(part, known.get(part.number))}

    @property
    def _wants_crc32c(self) -> bool:
        return self._expected is not None and self._expected.algorithm is Algorithm.CRC32C

    def _can_tell(self, part: PartDone) -> bool:
        """Whether it is known of an earlier part what is to be compared."""
        return self._expected is None or (part.crc32c if self._wants_crc32c else part.crc64nvme) is not None

    async def _agreed(self) -> None:
        """Return when the object may be published. Raises: LeaseLost."""
        self._control.check()
        await self._control.ask_commit()
        self._control.check()

    async def _verified(
        self, session: UploadSession, parts: Sequence[PartDone], told_etag: str, crc: int | None
    ) -> ObjectHead:
        """Return the object that stands there, once it is ours. Raises: SinkError."""
        size_bytes = sum(part.size_bytes for part in parts)
        found = await self._sink.head(self._order.key)
        if found is None:
            raise SinkBusy("The bucket does not show the object it has just completed.")
        # Some stores (rclone) show the MD5 of the whole afterwards, which nobody has computed. Then Complete's answer
        # tells that it took our parts, and our session's id that this is what it made.
        is_marked = told_etag == combined_etag(parts) and found.metadata.get(SESSION) == session.session_id
        is_ours = found.etag == told_etag or (is_marked and _MD5.fullmatch(found.etag) is not None)
        if found.size_bytes != size_bytes or not is_ours:
            raise SinkError(
                f"The object has {found.size_bytes} bytes and ETag {found.etag}, not {size_bytes}, {told_etag}."
            )
        if crc is not None and found.crc64nvme not in {None, crc}:
            raise ChecksumMismatch("The bucket shows another CRC-64/NVME than that of the bytes sent.")
        return found

    def _result(
        self,
        size_bytes: int,
        etag: str,
        crc: int | None,
        *,
        sha256: str | None,
        parts_count: int,
        sources: Mapping[int, int],
    ) -> JobResult:
        has_mirrors = bool(self._order.mirrors)
        return JobResult(
            bucket=self._order.bucket,
            key=self._order.key,
            size_bytes=size_bytes,
            etag=etag,
            sha256=sha256,
            crc64nvme=None if crc is None else crc_text(crc),
            parts_count=parts_count,
            sources=tuple(sorted(sources.items())) if has_mirrors else (),
            checksum=self._order.checksum,
        )


def _value_of(parts: Sequence[PartDone], algorithm: Algorithm) -> str:
    if algorithm is Algorithm.CRC32C:
        crc32c_found = combined_crc32c(parts)
        assert crc32c_found is not None, "parts without one are sent again"
        return crc32c_text(crc32c_found)
    crc = combined_crc(parts)
    assert crc is not None, "nothing is copied where a checksum is to be compared"
    return crc_text(crc)


def _is_same(stored: StoredPart, known: PartDone | None) -> bool:
    return known is not None and (stored.size_bytes, stored.etag) == (known.size_bytes, known.etag)
