"""The bucket: boto3 for its control calls, aiohttp for the bytes, by presigned URLs.

Laws of this file:
1. A control call is tried again here, with backoff; a PUT is not, because its bytes have to be fetched anew.
2. A PUT counts as done only when the store's answer shows that it received the bytes that were sent. Where the store
   computes CRC-64/NVME (it shows when an upload is created or a part is answered), no MD5 is computed for it.
3. An object of parts is completed by our own list of ETags, and with our CRC-64/NVME of the whole where the store
   takes one: it refuses to publish anything else.
"""

import base64
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self

from rayhaul.errors import ChecksumMismatch, SinkBusy, SinkError, UploadLost
from rayhaul.lease import OpenUpload, PartDone
from rayhaul.metrics import Meter
from rayhaul.policy.naming import content_disposition
from rayhaul.policy.planning import PARTS_MAX
from rayhaul.policy.retry import RetryBudget
from rayhaul.settings import S3Settings, TransferSettings
from tasks.abort_rule import AbortRule
from tasks.checksum import combined_etag, crc_text
from tasks.outgoing import Body, Buffer
from tasks.store_calls import Refusal, StoreCalls
from tasks.store_puts import Put, StorePuts
from tasks.stored import ObjectHead, StoredPart, unquoted

#: AWS may be silent for a while over a Complete of thousands of parts, and over a PUT while it flushes.
STALL_TIMEOUT_S = 60.0
#: S3's own limit; stores with another one give the same pages.
_PAGE_MAX = 1000
_PAGES_MAX = 100
#: An abort may miss parts that were on their way (S3, AbortMultipartUpload).
_ABORTS_MAX = 5
#: What stores answer that do not know the checksum we offer.
UNKNOWN_CHECKSUM = frozenset({"InvalidArgument", "InvalidRequest", "MalformedXML", "NotImplemented"})
_log = logging.getLogger(__name__)
_CONTENT_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")


class Sink:
    """One bucket. Enter it before anything but `presign_get`."""

    def __init__(
        self,
        s3: S3Settings,
        *,
        meter: Meter,
        connections_max: int,
        retries: TransferSettings | None = None,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        rng: Random | None = None,
    ) -> None:
        assert s3.bucket is not None, "no bucket is set"
        self.bucket = s3.bucket
        self.meter = meter
        self._s3 = s3
        #: For what is asked of other buckets of the same store.
        self.calls = StoreCalls(
            s3,
            meter=meter,
            retries=retries or TransferSettings(),
            answer_timeout_s=stall_timeout_s,
            rng=rng or Random(),
        )
        self._puts = StorePuts(meter=meter, connections_max=connections_max, stall_timeout_s=stall_timeout_s)
        #: Whether the store takes CRC-64/NVME at all; assumed until it refuses.
        self._takes_crc = True
        self._abort_rule = AbortRule(self.calls, self.bucket)
        #: Whether it tells that of a part it received; until it does, the MD5 has to be at hand.
        self._tells_crc = False

    @property
    def budget(self) -> RetryBudget:
        """What the store is asked to bear of second tries, by all in this process."""
        return self.calls.budget

    async def __aenter__(self) -> Self:
        await self.calls.start()
        self._puts.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._puts.close()
        await self.calls.close()

    # --- bytes ---

    async def put_part(
        self, key: str, upload_id: str, number: int, size_bytes: int, body: Body, *, wants_crc32c: bool = False
    ) -> Put:
        """Send one part.

        Raises: SinkError; what iterating the body raises.
        """
        query = {"uploadId": upload_id, "partNumber": str(number)}
        url = await self.calls.presign_put(key, query=query, headers={})
        try:
            put = await self._puts.send(
                "upload_part",
                url,
                headers={},
                size_bytes=size_bytes,
                body=body,
                tells_crc=self._tells_crc,
                wants_crc32c=wants_crc32c,
            )
        except SinkError:
            # That may be what is wrong.
            self._tells_crc = False
            raise
        self._tells_crc = put.told_crc
        self.budget.succeeded()
        return put

    async def put(
        self,
        key: str,
        size_bytes: int,
        body: Body,
        *,
        content_type: str,
        filename: str,
        metadata: Mapping[str, str],
        replaces: str | None,
    ) -> Put:
        """Send a whole object. Of a buffer the MD5 goes along, and the store publishes nothing else.

        `replaces` is the ETag of the object that it takes the place of; None: there is none. A store that knows
        conditional writes (RFC 9110 13.1; S3, "Conditional writes") publishes nothing where that is not so any more.

        Raises: Overtaken; SinkError; what iterating the body raises.
        """
        about = _about(content_type, filename, metadata)
        headers = {
            "Content-Type": about["ContentType"],
            "Content-Disposition": about["ContentDisposition"],
            **({"If-None-Match": "*"} if replaces is None else {"If-Match": f'"{replaces}"'}),
            **{f"x-amz-meta-{name}": value for name, value in metadata.items()},
        }
        md5_hex = None
        if isinstance(body, Buffer):
            digest = await self._puts.md5(body)
            headers["Content-MD5"] = base64.b64encode(digest).decode()
            md5_hex = digest.hex()
        url = await self.calls.presign_put(key, query={}, headers=headers)
        put = await self._puts.send(
            "put_object", url, headers=headers, size_bytes=size_bytes, body=body, tells_crc=False, md5_hex=md5_hex
        )
        self.budget.succeeded()
        return put

    # --- uploads ---

    async def create(self, key: str, *, content_type: str, filename: str, metadata: Mapping[str, str]) -> str:
        """Open an upload and return its id. Raises: SinkError."""
        about = _about(content_type, filename, metadata)
        create = partial(self.calls.client.create_multipart_upload, Bucket=self.bucket, Key=key, **about)
        if not self._takes_crc:
            return _upload_id(await self.calls.told("create_multipart_upload", create))
        checked = partial(create, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")
        try:
            return _upload_id(await self.calls.call("create_multipart_upload", checked))
        except Refusal as refusal:
            if refusal.code not in UNKNOWN_CHECKSUM:
                raise refusal.error from refusal
        answer = await self.calls.told("create_multipart_upload", create)
        self._takes_crc = False
        return _upload_id(answer)

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[PartDone],
        *,
        crc64nvme: int | None = None,
        mark: tuple[str, str] | None = None,
    ) -> str:
        """Publish the object made of these parts, given in order, and return its ETag.

        A lost answer is made up for: where the upload is gone and exactly our object stands there, it is done. `mark`
        is a name and value in the object's metadata that no other upload has.
        Raises: SinkError; UploadLost where the upload is gone without that; ChecksumMismatch where the store has
        computed another CRC-64/NVME of the whole.
        """
        listed = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        complete: Callable[..., Any] = partial(
            self.calls.client.complete_multipart_upload,
            Bucket=self.bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": listed},  # type: ignore[typeddict-item]
        )
        offers_crc = crc64nvme is not None and self._takes_crc
        checked = (
            partial(complete, ChecksumCRC64NVME=crc_text(crc64nvme), ChecksumType="FULL_OBJECT")
            if offers_crc and crc64nvme is not None
            else complete
        )
        try:
            try:
                answer = await self.calls.call("complete_multipart_upload", checked)
            except Refusal as refusal:
                if refusal.code not in UNKNOWN_CHECKSUM or not offers_crc:
                    raise
                answer = await self.calls.call("complete_multipart_upload", complete)
        except Refusal as refusal:
            if isinstance(refusal.error, UploadLost):
                return await self._adopted(key, parts, mark, refusal.error)
            if refusal.code == "BadDigest":
                raise ChecksumMismatch("The bucket has other bytes than were sent.") from refusal
            raise refusal.error from refusal
        return unquoted(answer.get("ETag"))

    async def _adopted(
        self, key: str, parts: Sequence[PartDone], mark: tuple[str, str] | None, lost: UploadLost
    ) -> str:
        """Return the ETag that Complete would have told. Some stores show another one for the object afterwards."""
        found = await self.head(key)
        etag = combined_etag(parts)
        if found is None or found.size_bytes != sum(part.size_bytes for part in parts):
            raise lost
        # What bears our mark was made by this upload's Complete, and that took no other parts than ours.
        is_marked = mark is not None and found.metadata.get(mark[0]) == mark[1]
        if etag is None or (found.etag != etag and not is_marked):
            raise lost
        return etag

    async def list_parts(self, key: str, upload_id: str) -> Sequence[StoredPart]:
        """Return the parts the store has, by number. Raises: UploadLost; SinkError."""
        found: list[StoredPart] = []
        for _ in range(_PAGES_MAX):
            ask = partial(
                self.calls.client.list_parts,
                Bucket=self.bucket,
                Key=key,
                UploadId=upload_id,
                PartNumberMarker=found[-1].number if found else 0,
                MaxParts=_PAGE_MAX,
            )
            answer = await self.calls.told("list_parts", ask)
            found += [StoredPart.of(part) for part in answer.get("Parts", ())]
            if not answer.get("IsTruncated") or len(found) >= PARTS_MAX:
                break
        return found

    async def list_uploads(self, prefix: str = "") -> Sequence[OpenUpload]:
        """Return the uploads that are open under a prefix, the first 100,000. Raises: SinkError."""
        found: list[OpenUpload] = []
        marker: dict[str, Any] = {}
        for _ in range(_PAGES_MAX):
            ask = partial(
                self.calls.client.list_multipart_uploads,
                Bucket=self.bucket,
                Prefix=prefix,
                MaxUploads=_PAGE_MAX,
                **marker,
            )
            try:
                answer = await self.calls.told("list_multipart_uploads", ask)
            except UploadLost:
                # So rclone says that a bucket has none.
                break
            found += [
                OpenUpload(key=upload["Key"], upload_id=upload["UploadId"], initiated_at=upload["Initiated"])
                for upload in answer.get("Uploads", ())
            ]
            if not answer.get("IsTruncated"):
                break
            marker = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
        return found

    async def abort(self, key: str, upload_id: str) -> None:
        """Give an upload up and see that it is gone; does nothing when it was gone before.

        Raises: SinkError; SinkBusy where parts keep landing in it.
        """
        abort = partial(self.calls.client.abort_multipart_upload, Bucket=self.bucket, Key=key, UploadId=upload_id)
        for _ in range(_ABORTS_MAX):
            try:
                await self.calls.told("abort_multipart_upload", abort)
                await self.list_parts(key, upload_id)
            except UploadLost:
                return
        raise SinkBusy(f"The upload of {key} is still there after {_ABORTS_MAX} aborts.")

    # --- objects and the bucket ---

    async def head(self, key: str) -> ObjectHead | None:
        """Return what the store says of an object; None where it has none. Raises: SinkError."""
        try:
            return await self.head_of(self.bucket, key)
        except Refusal as refusal:
            if refusal.is_absence:
                return None
            raise refusal.error from refusal

    async def head_of(self, bucket: str, key: str) -> ObjectHead:
        """Return what the store says of an object in any bucket of it. Raises: Refusal."""
        head = partial(self.calls.client.head_object, Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        return ObjectHead.of(await self.calls.call("head_object", head))

    async def copy(
        self,
        key: str,
        *,
        source_key: str,
        source_etag: str,
        content_type: str,
        filename: str,
        metadata: Mapping[str, str],
    ) -> None:
        """Have the store copy an object of at most 5 GiB, as long as it has that ETag. Raises: SinkError."""
        copy = partial(
            self.calls.client.copy_object,
            Bucket=self.bucket,
            Key=key,
            CopySource={"Bucket": self.bucket, "Key": source_key},
            CopySourceIfMatch=f'"{source_etag}"',
            MetadataDirective="REPLACE",
            **_about(content_type, filename, metadata),
        )
        await self.calls.told("copy_object", copy)

    async def delete(self, key: str) -> None:
        """Delete an object; does nothing when there is none. Raises: SinkError."""
        await self.calls.told("delete_object", partial(self.calls.client.delete_object, Bucket=self.bucket, Key=key))

    async def ensure_bucket(self) -> None:
        """Create the bucket when it is missing. Raises: SinkRefused where that is not allowed; SinkError."""
        client = self.calls.client
        try:
            await self.calls.call("head_bucket", partial(client.head_bucket, Bucket=self.bucket))
        except Refusal as refusal:
            if not refusal.is_absence:
                raise refusal.error from refusal
        else:
            return
        place: dict[str, Any] = {}
        if self._s3.endpoint_url is None and self._s3.region not in {"auto", "us-east-1"}:
            place = {"CreateBucketConfiguration": {"LocationConstraint": self._s3.region}}
        try:
            await self.calls.call("create_bucket", partial(client.create_bucket, Bucket=self.bucket, **place))
        except Refusal as refusal:
            # Another process was quicker.
            if refusal.code != "BucketAlreadyOwnedByYou":
                raise refusal.error from refusal

    async def ensure_abort_rule(self, prefix: str, days: int) -> None:
        """Have the bucket abort uploads under a prefix after so many days, unless it has lifecycle rules already."""
        await self._abort_rule.ensure(prefix, days)

    def presign_get(self, key: str, *, filename: str, expires_s: int) -> str:
        """Return a link that downloads the object under that file name for so long. Opens no connection."""
        return self.calls.client.generate_presigned_url(
            "get_object",
            Params={"Bucket": self.bucket, "Key": key, "ResponseContentDisposition": content_disposition(filename)},
            ExpiresIn=expires_s,
        )


def _about(content_type: str, filename: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what an object is stored with. A content type that cannot be a header value is dropped."""
    return {
        "ContentType": content_type if _CONTENT_TYPE.fullmatch(content_type) else "application/octet-stream",
        "ContentDisposition": content_disposition(filename),
        "Metadata": dict(metadata),
    }


def _upload_id(answer: Mapping[str, Any]) -> str:
    """Raises: SinkError."""
    upload_id = answer.get("UploadId")
    if not upload_id:
        raise SinkError("The bucket answered without an upload's id.")
    return str(upload_id)
