"""What a bucket does with objects: the checks of PUT, HEAD, GET and DELETE, each on keys of its own."""

import base64
import hashlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from rayhaul.policy.naming import content_disposition
from tasks.checked_store import Answer, CheckedStore
from tasks.findings import Finding, Result, found_out

_BODY = b"Rayhaul was here to see what this bucket can do. " * 20
_OTHER = b"Rayhaul came a second time. " * 20
_METADATA = {"correlation-id": "storage-check", "job-id": "job_check"}
#: S3 refuses signatures that are fifteen minutes off.
_SKEW_S_MAX = 60.0


async def reaches(store: CheckedStore) -> Finding:
    await store.call("list_objects_v2", Prefix=store.prefix, MaxKeys=1)
    return Finding(Result.YES)


async def tells_time(store: CheckedStore) -> Finding:
    answer = await store.call("list_objects_v2", Prefix=store.prefix, MaxKeys=1)
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if told is None:
        return Finding(Result.ERROR, "the store does not tell its time")
    skew_s = (datetime.now(UTC) - parsedate_to_datetime(told)).total_seconds()
    # The header has whole seconds.
    apart_s = max(0.0, abs(skew_s) - 1)
    return found_out(apart_s <= _SKEW_S_MAX, f"{apart_s:.0f} s apart")


async def puts(store: CheckedStore) -> Finding:
    (await store.put(store.key("put"), _BODY)).expect(200)
    return Finding(Result.YES)


async def heads(store: CheckedStore) -> Finding:
    key = store.key("head")
    put = (await store.put(key, _BODY)).expect(200)
    head = await store.sink.head(key)
    if head is None:
        return Finding(Result.NO, "the object that was just written is not there")
    return found_out((head.size_bytes, head.etag) == (len(_BODY), put.etag), "size or ETag is another one")


async def deletes(store: CheckedStore) -> Finding:
    key = store.key("delete")
    (await store.put(key, _BODY)).expect(200)
    await store.sink.delete(key)
    return found_out(await store.sink.head(key) is None, "it is still there")


async def shows_what_it_received(store: CheckedStore) -> Finding:
    key = store.key("received")
    # Whether that fits is for the sink to say: the check is its own.
    await store.sink.put(
        key, len(_BODY), _BODY, content_type="text/plain", filename="a.txt", metadata=_METADATA, replaces=None
    )
    return Finding(Result.YES)


async def keeps_metadata(store: CheckedStore) -> Finding:
    key = store.key("metadata")
    headers = {f"x-amz-meta-{name}": value for name, value in _METADATA.items()}
    (await store.put(key, _BODY, headers)).expect(200)
    head = await store.sink.head(key)
    return found_out(head is not None and _METADATA.items() <= dict(head.metadata).items())


async def gives_links(store: CheckedStore) -> Finding:
    key = store.key("link")
    (await store.put(key, _BODY)).expect(200)
    filename = "Überblick.txt"
    answer = (await store.get(key, filename=filename)).expect(200)
    if answer.body != _BODY:
        return Finding(Result.NO, "other bytes than were written")
    is_named = answer.headers.get("Content-Disposition") == content_disposition(filename)
    return Finding(Result.YES, "" if is_named else "without the file's name")


async def gives_ranges(store: CheckedStore) -> Finding:
    key = store.key("range")
    (await store.put(key, _BODY)).expect(200)
    answer = (await store.get(key, headers={"Range": "bytes=7-18"})).expect(200, 206)
    if answer.body != _BODY[7:19]:
        return Finding(Result.NO, "other bytes than were asked for")
    return found_out(answer.status == 206, "the right bytes, with the wrong status")


async def refuses_wrong_md5(store: CheckedStore) -> Finding:
    key = store.key("md5")
    digest = base64.b64encode(hashlib.md5(_BODY, usedforsecurity=False).digest()).decode()
    (await store.put(key, _BODY, {"Content-MD5": digest})).expect(200)
    return await _stands(store, key, await store.put(key, _OTHER, {"Content-MD5": digest}))


async def puts_where_nothing_is(store: CheckedStore) -> Finding:
    key = store.key("if-none-match")
    fresh = {"If-None-Match": "*"}
    (await store.put(key, _BODY, fresh)).expect(200)
    return await _stands(store, key, await store.put(key, _OTHER, fresh))


async def puts_in_the_place_of(store: CheckedStore) -> Finding:
    key = store.key("if-match")
    first = (await store.put(key, _BODY)).expect(200)
    second = (await store.put(key, _OTHER, {"If-Match": f'"{first.etag}"'})).expect(200)
    assert second.etag != first.etag, "two contents have one ETag"
    return await _stands(store, key, await store.put(key, _BODY, {"If-Match": f'"{first.etag}"'}), _OTHER)


async def _stands(store: CheckedStore, key: str, answer: Answer, data: bytes = _BODY) -> Finding:
    """Tell whether the second write was refused, and the object is what it was before."""
    if answer.expect(200, 400, 412).status == 200:
        return Finding(Result.NO)
    stands = (await store.get(key)).expect(200).body == data
    return found_out(stands, "refused, and overwritten all the same")
