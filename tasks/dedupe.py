"""A file that an earlier job brought into the bucket is copied there, by the store itself, and not fetched again.

Laws of this file:
1. The object must stand as it was recorded: size, ETag, and CRC-64/NVME where the store shows one; the copy is made of
   that ETag alone. Where anything is in doubt, nothing is published here and the file is fetched.
2. As any object, the copy is published only after the scheduler agreed, and counts once the store shows it as ours.
"""

import asyncio
import logging
from dataclasses import replace

from rayhaul.errors import SinkBusy, SinkError, SourceChanged
from rayhaul.job import JobResult
from rayhaul.lease import StandingCopy, TransferOrder
from rayhaul.policy.planning import byte_range, plan_parts
from tasks.bucket_rules import StoredObject, StoredRange
from tasks.checksum import crc_value
from tasks.copying import CopyUnknown
from tasks.lease_control import LeaseControl
from tasks.marks import LEASE, metadata_of_put
from tasks.sink import Sink
from tasks.stored import ObjectHead
from tasks.upload import Upload

_log = logging.getLogger(__name__)

#: S3, CopyObject: larger objects are copied in parts.
COPY_BYTES_MAX = 5 * 1024**3
#: Parts that the store is asked to copy at once.
_LANES = 8


async def copied(
    order: TransferOrder, copy: StandingCopy, *, sink: Sink, upload: Upload, control: LeaseControl
) -> JobResult | None:
    """Publish the earlier job's object as this job's; None where it has to be fetched.

    `upload` is the order's; it is opened only for what is too large to be copied at once.
    Raises: SinkError; LeaseLost.
    """
    if copy.size_bytes != order.pin.size_bytes or copy.bucket != sink.bucket:
        return None
    control.doing("looking for the file in the bucket")
    try:
        found = await sink.head(copy.key)
    except SinkError as error:
        _log.info("not known whether the file is in the bucket: %s", error.message, extra={"code": error.code})
        return None
    if found is None or not _is_as_recorded(found, copy):
        _log.info("the object of %s does not stand as it was recorded: fetching the file", copy.job_id)
        return None
    _log.info("the file is in the bucket already, by %s", copy.job_id)
    if copy.key != order.key and copy.size_bytes > COPY_BYTES_MAX:
        result = await _copy_parts(order, copy, upload)
        if copy.crc64nvme is not None and result.crc64nvme not in {None, copy.crc64nvme}:
            raise SinkBusy("The copy has another CRC-64/NVME than the object it is of; the file will be fetched.")
        return replace(result, copied_from=copy.job_id, crc64nvme=copy.crc64nvme, sources=(), checksum=None)
    control.check()
    await control.ask_commit()
    control.check()
    if copy.key != order.key:
        found = await _copy(order, copy, sink)
    return JobResult(
        bucket=order.bucket,
        key=order.key,
        size_bytes=copy.size_bytes,
        etag=found.etag,
        sha256=copy.sha256,
        crc64nvme=copy.crc64nvme,
        parts_count=1 if copy.key != order.key else copy.parts_count,
        copied_from=copy.job_id,
    )


async def _copy_parts(order: TransferOrder, copy: StandingCopy, upload: Upload) -> JobResult:
    """Copy what is too large to be copied at once, part by part, each under the condition of the ETag."""
    plan = plan_parts(copy.size_bytes, part_bytes_min=order.part_bytes)
    assert plan.parts_count is not None, "the size is known"
    await upload.open(parts_count=None)
    numbers = iter(range(1, plan.parts_count + 1))
    source, etag = StoredObject(bucket=copy.bucket, key=copy.key), f'"{copy.etag}"'

    async def lane() -> None:
        for number in numbers:
            first_byte, end_byte = byte_range(plan, number)
            wanted = StoredRange(source=source, etag=etag, first_byte=first_byte, end_byte=end_byte)
            await upload.copy(number, wanted)

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(_LANES):
                lanes.create_task(lane())
    except* (CopyUnknown, SourceChanged) as group:
        raise SinkBusy("The store does not copy the object in parts; it will be fetched.") from group
    return await upload.commit(parts_count=plan.parts_count, sha256=copy.sha256, is_copy=True)


async def _copy(order: TransferOrder, copy: StandingCopy, sink: Sink) -> ObjectHead:
    await sink.copy(
        order.key,
        source_key=copy.key,
        source_etag=copy.etag,
        content_type=order.pin.content_type or "application/octet-stream",
        filename=order.pin.filename,
        metadata=metadata_of_put(order),
    )
    found = await sink.head(order.key)
    if found is None or found.metadata.get(LEASE) != order.lease_id:
        raise SinkBusy("The bucket does not show the copy that it has just made.")
    source = await sink.head(copy.key)
    is_copy = found.size_bytes == copy.size_bytes and _has_crc(found, copy)
    if source is None or not _is_as_recorded(source, copy) or not is_copy:
        # Not every store knows the condition.
        await sink.delete(order.key)
        raise SinkBusy("The object changed while it was copied.")
    return found


def _is_as_recorded(found: ObjectHead, copy: StandingCopy) -> bool:
    return (found.size_bytes, found.etag) == (copy.size_bytes, copy.etag) and _has_crc(found, copy)


def _has_crc(found: ObjectHead, copy: StandingCopy) -> bool:
    return found.crc64nvme is None or copy.crc64nvme is None or found.crc64nvme == crc_value(copy.crc64nvme)
