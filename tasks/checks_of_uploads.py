"""What a bucket does with multipart uploads, in the good case and in those that races and lost answers bring."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from awscrt.checksums import crc64nvme

from rayhaul.errors import SinkBusy
from rayhaul.lease import PartDone
from rayhaul.settings import MIB
from tasks.checked_store import CheckedStore, Opened
from tasks.checksum import combined_etag, crc_text
from tasks.findings import Finding, Result, found_out
from tasks.sink import UNKNOWN_CHECKSUM
from tasks.store_calls import Overtaken, Refusal

#: S3's smallest part that is not the last one.
_PART_BYTES = 5 * MIB
_SMALL = Random(1).randbytes(1024)
_SMALL_TOO = Random(2).randbytes(1024)
_CRC_OPTIONS = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}


async def uploads_in_parts(store: CheckedStore) -> Finding:
    """As a job does it, by the sink itself; one part twice, as after a lost answer."""
    key = store.key("parts")
    upload_id = await store.sink.create(key, content_type="text/plain", filename="a.txt", metadata={})
    store.opened(key, upload_id)
    data = [Random(3).randbytes(_PART_BYTES), _SMALL]
    parts = []
    for number, content in enumerate(data, start=1):
        put = await store.sink.put_part(key, upload_id, number, len(content), content)
        if content is _SMALL:
            put = await store.sink.put_part(key, upload_id, number, len(content), content)
        parts.append(
            PartDone(session_id="", number=number, size_bytes=len(content), etag=put.etag, crc64nvme=put.crc64nvme)
        )
    listed = {(part.number, part.size_bytes, part.etag) for part in await store.sink.list_parts(key, upload_id)}
    if not listed >= {(part.number, part.size_bytes, part.etag) for part in parts}:
        return Finding(Result.NO, "it does not list the parts that were sent")
    whole = b"".join(data)
    await store.sink.complete(key, upload_id, parts, crc64nvme=crc64nvme(whole))
    return found_out((await store.get(key)).expect(200).body == whole, "the object has other bytes than were sent")


async def lists_uploads(store: CheckedStore) -> Finding:
    upload = await store.open("listed")
    found = await store.sink.list_uploads(upload.key)
    return found_out((upload.key, upload.upload_id) in [(each.key, each.upload_id) for each in found])


async def aborts(store: CheckedStore) -> Finding:
    upload = await store.open("aborted")
    (await store.put_part(upload, 1, _SMALL)).expect(200)
    try:
        # Looks whether it is gone.
        await store.sink.abort(upload.key, upload.upload_id)
    except SinkBusy as error:
        return Finding(Result.NO, error.message)
    return Finding(Result.YES)


async def takes_uneven_parts(store: CheckedStore) -> Finding:
    contents = [Random(4).randbytes(_PART_BYTES + MIB), Random(5).randbytes(_PART_BYTES), _SMALL]
    upload = await store.open("uneven")
    etags = [
        (await store.put_part(upload, number, content)).expect(200).etag
        for number, content in enumerate(contents, start=1)
    ]
    try:
        await store.complete(upload, etags)
    except Refusal as refusal:
        return Finding(Result.REFUSED, refusal.code)
    return found_out((await store.get(upload.key)).expect(200).body == b"".join(contents), "the object is broken")


# --- checksums ---


async def keeps_crc(store: CheckedStore) -> Finding:
    crc = crc64nvme(_SMALL)
    upload = await _checked_upload(store, "crc")
    if isinstance(upload, Finding):
        return upload
    etag = (await store.put_part(upload, 1, _SMALL)).expect(200).etag
    await store.complete(upload, [etag], ChecksumCRC64NVME=crc_text(crc), ChecksumType="FULL_OBJECT")
    head = await store.sink.head(upload.key)
    return found_out(head is not None and head.crc64nvme == crc, "taken, and not kept")


async def refuses_wrong_crc(store: CheckedStore) -> Finding:
    upload = await _checked_upload(store, "wrong-crc")
    if isinstance(upload, Finding):
        return upload
    etag = (await store.put_part(upload, 1, _SMALL)).expect(200).etag
    wrong = crc_text(crc64nvme(_SMALL_TOO))
    try:
        await store.complete(upload, [etag], ChecksumCRC64NVME=wrong, ChecksumType="FULL_OBJECT")
    except Refusal as refusal:
        if refusal.code in UNKNOWN_CHECKSUM:
            return Finding(Result.REFUSED, refusal.code)
        return found_out(await store.sink.head(upload.key) is None, "refused, and published all the same")
    return Finding(Result.NO)


async def _checked_upload(store: CheckedStore, name: str) -> Opened | Finding:
    """Open an upload whose whole is to have a CRC-64/NVME; where the store says that it knows none, that is found."""
    try:
        return await store.open(name, **_CRC_OPTIONS)
    except Refusal as refusal:
        if refusal.code in UNKNOWN_CHECKSUM:
            return Finding(Result.REFUSED, refusal.code)
        raise


# --- races and lost answers ---


async def publishes_listed_parts_only(store: CheckedStore) -> Finding:
    """A part is written anew by another agent; the list has the first one's ETag."""
    upload = await store.open("overwritten")
    first = (await store.put_part(upload, 1, _SMALL)).expect(200).etag
    second = await store.put_part(upload, 1, _SMALL_TOO)
    if second.status != 200:
        return Finding(Result.YES, "no other bytes are taken")
    try:
        await store.complete(upload, [first])
    except Refusal as refusal:
        return Finding(Result.YES, refusal.code)
    return found_out((await store.get(upload.key)).expect(200).body == _SMALL, "published what the list does not have")


async def completes_twice(store: CheckedStore) -> Finding:
    upload, etag = await _completed(store, "twice")
    try:
        await store.complete(upload, [etag])
    except Refusal as refusal:
        return Finding(Result.NO, refusal.code)
    return Finding(Result.YES)


async def has_computable_etag(store: CheckedStore) -> Finding:
    upload, etag = await _completed(store, "etag")
    head = await store.sink.head(upload.key)
    expected = combined_etag([PartDone(session_id="", number=1, size_bytes=len(_SMALL), etag=etag)])
    return found_out(head is not None and head.etag == expected)


async def completes_where_nothing_is(store: CheckedStore) -> Finding:
    upload = await store.open("complete-if-none-match")
    (await store.put(upload.key, _SMALL_TOO)).expect(200)
    etag = (await store.put_part(upload, 1, _SMALL)).expect(200).etag
    try:
        await store.complete(upload, [etag], IfNoneMatch="*")
    except Refusal as refusal:
        if not isinstance(refusal.error, Overtaken):
            raise
        return Finding(Result.YES)
    return Finding(Result.NO)


async def _completed(store: CheckedStore, name: str) -> tuple[Opened, str]:
    """Return an upload of one part that was completed, and the part's ETag."""
    upload = await store.open(name)
    etag = (await store.put_part(upload, 1, _SMALL)).expect(200).etag
    await store.complete(upload, [etag])
    return upload, etag


# --- what others left behind ---


async def has_abort_rule(store: CheckedStore) -> Finding:
    """Read the bucket's lifecycle rules; only where there are none, set one for our prefix and take it away again."""
    try:
        rules = (await store.call("get_bucket_lifecycle_configuration")).get("Rules")
    except Refusal as refusal:
        if refusal.code != "NoSuchLifecycleConfiguration":
            raise
    else:
        # Some stores take the question for another one, and would take a rule for something else too.
        return Finding(Result.REFUSED, "it knows no such rules") if rules is None else _abort_rule(rules)
    rule = {
        "ID": "rayhaul-storage-check",
        "Status": "Enabled",
        "Filter": {"Prefix": store.prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }
    await store.call("put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": [rule]})
    await store.call("delete_bucket_lifecycle")
    return Finding(Result.NO, "none is set, one can be set")


def _abort_rule(rules: Sequence[Mapping[str, Any]]) -> Finding:
    days = [
        rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        for rule in rules
        if rule["Status"] == "Enabled" and "AbortIncompleteMultipartUpload" in rule
    ]
    return Finding(Result.YES, f"after {min(days)} days") if days else Finding(Result.NO, "none of its rules does that")
