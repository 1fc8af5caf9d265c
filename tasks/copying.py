"""Parts that the store makes of an object of its own: no byte of them passes through an agent.

Laws of this file:
1. A copy is conditional on the pinned ETag, and the source is looked at once more afterwards: not every store knows
   the condition.
2. A store that makes no copies, or makes none for us, is no failure: the bytes are read and sent then.
"""

from dataclasses import dataclass
from functools import partial

from rayhaul.errors import SinkBusy, SourceChanged, UploadLost
from tasks.bucket_rules import StoredRange
from tasks.checksum import crc_value
from tasks.sink import Sink
from tasks.store_calls import Overtaken, Refusal


class CopyUnknown(Exception):
    """The store does not copy this by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedPart:
    #: Unquoted.
    etag: str
    #: None where the store does not tell it.
    crc64nvme: int | None


async def copied_part(sink: Sink, key: str, upload_id: str, number: int, wanted: StoredRange) -> CopiedPart:
    """Return the part that the store made of a range of another object.

    Raises: CopyUnknown; SourceChanged; SinkError.
    """
    try:
        part = await _copy(sink, key, upload_id, number, wanted)
        found = await sink.head_of(wanted.source.bucket, wanted.source.key)
    except Refusal as refusal:
        if refusal.is_absence or isinstance(refusal.error, Overtaken):
            raise SourceChanged from refusal
        if isinstance(refusal.error, SinkBusy | UploadLost):
            raise refusal.error from refusal
        raise CopyUnknown(refusal.code) from refusal
    if f'"{found.etag}"' != wanted.etag:
        raise SourceChanged
    return part


async def _copy(sink: Sink, key: str, upload_id: str, number: int, wanted: StoredRange) -> CopiedPart:
    """Raises: Refusal; CopyUnknown."""
    copy = partial(
        sink.calls.client.upload_part_copy,
        Bucket=sink.bucket,
        Key=key,
        UploadId=upload_id,
        PartNumber=number,
        CopySource={"Bucket": wanted.source.bucket, "Key": wanted.source.key},
        CopySourceIfMatch=wanted.etag,
        # Source: S3, UploadPartCopy; the last position is included.
        CopySourceRange=f"bytes={wanted.first_byte}-{wanted.end_byte - 1}",
    )
    told = (await sink.calls.call("upload_part_copy", copy)).get("CopyPartResult", {})
    etag, crc = told.get("ETag", "").strip('"'), told.get("ChecksumCRC64NVME")
    if not etag:
        raise CopyUnknown("it tells no ETag")
    return CopiedPart(etag=etag, crc64nvme=None if crc is None else crc_value(crc))
