"""The two places bytes are at, as a model: sources that show one version of a file at a time, and a bucket.

Content is the version's name: a part of version "v2" shows it in its ETag, so that mixed or wrong bytes are seen.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayhaul.errors import SinkBusy, SinkRefused, UploadLost
from rayhaul.lease import AbortOrder, PartDone


@dataclass(slots=True)
class Upload:
    key: str
    job_id: str
    created_at_s: float = 0.0
    #: ETags by part number.
    parts: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredObject:
    etag: str
    job_id: str
    #: Under which lease it was published.
    lease_id: str
    epoch: int
    #: By which upload; None: by a PUT.
    session_id: str | None


def part_etag(version: str, number: int) -> str:
    return f"{version}/{number}"


def object_etag(version: str, parts_count: int) -> str:
    return f"{version}:{parts_count}"


@dataclass(slots=True)
class Sources:
    """What the file of each URL is at the moment."""

    versions: Counter[str] = field(default_factory=Counter)
    gone: set[str] = field(default_factory=set)

    def version(self, url: str) -> str:
        return f"v{self.versions[url]}"


@dataclass(slots=True)
class Bucket:
    """What a store remembers: uploads by their id, and objects by their key. Raises: SinkRefused while it does so."""

    uploads: dict[str, Upload] = field(default_factory=dict)
    objects: dict[str, StoredObject] = field(default_factory=dict)
    published: Counter[str] = field(default_factory=Counter)
    refuses: bool = False

    def create(self, upload_id: str, key: str, job_id: str, now_s: float) -> None:
        self._allow()
        self.uploads[upload_id] = Upload(key, job_id, now_s)

    def put_part(self, upload_id: str, number: int, etag: str) -> None:
        """Raises: UploadLost."""
        self._allow()
        self._open(upload_id).parts[number] = etag

    def parts(self, upload_id: str) -> Mapping[int, str]:
        """Raises: UploadLost."""
        self._allow()
        return self._open(upload_id).parts

    def complete(self, upload_id: str, key: str, parts: Mapping[int, PartDone], made: StoredObject) -> None:
        """Publish these parts and no others. Raises: UploadLost where the upload is gone or has other parts."""
        self._allow()
        upload = self._open(upload_id)
        if any(upload.parts.get(number) != part.etag for number, part in parts.items()):
            raise UploadLost("InvalidPart")
        del self.uploads[upload_id]
        self.put(key, made)

    def etag(self, key: str) -> str | None:
        self._allow()
        stands = self.objects.get(key)
        return None if stands is None else stands.etag

    def replace(self, key: str, made: StoredObject, *, replaces: str | None) -> None:
        """Put, where what stands there has this ETag (None: nothing). Raises: SinkBusy where it has not."""
        self._allow()
        if replaces != self.etag(key):
            raise SinkBusy("PreconditionFailed")
        self.put(key, made)

    def put(self, key: str, made: StoredObject) -> None:
        self._allow()
        self.objects[key] = made
        self.published[made.job_id] += 1

    def abort(self, upload_id: str) -> None:
        self._allow()
        self.uploads.pop(upload_id, None)

    def undo(self, order: AbortOrder) -> None:
        """Abort an upload, and delete the object that it, or a PUT that is taken back, has made."""
        self.abort(order.upload_id)
        made = self.objects.get(order.key)
        if made is None or made.job_id != order.context.job_id:
            return
        was_put = made.session_id is None and order.epoch is not None and made.epoch <= order.epoch
        if made.session_id == order.session_id or was_put:
            del self.objects[order.key]

    def uploads_of(self, key: str) -> list[str]:
        self._allow()
        return [upload_id for upload_id, upload in self.uploads.items() if upload.key == key]

    def _open(self, upload_id: str) -> Upload:
        if upload_id not in self.uploads:
            raise UploadLost
        return self.uploads[upload_id]

    def _allow(self) -> None:
        if self.refuses:
            raise SinkRefused("AccessDenied, says the dice")
