"""What a store says of the parts and objects that it holds, as boto3 tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tasks.outgoing import told_crc


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    number: int
    size_bytes: int
    #: Unquoted.
    etag: str

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> Self:
        """Read one of the `Parts` that ListParts tells."""
        return cls(number=part["PartNumber"], size_bytes=part["Size"], etag=unquoted(part["ETag"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHead:
    #: -1 where the store does not say.
    size_bytes: int
    #: Unquoted.
    etag: str
    #: Of the whole object; None where the store keeps none.
    crc64nvme: int | None
    metadata: Mapping[str, str]
    content_type: str | None = None
    #: Content-Disposition.
    disposition: str | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Read the answer to HeadObject."""
        return cls(
            size_bytes=answer.get("ContentLength", -1),
            etag=unquoted(answer.get("ETag")),
            crc64nvme=told_crc(answer["ResponseMetadata"]["HTTPHeaders"]),
            # S3 keeps the names in lower case; others give them back as HTTP libraries write headers.
            metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
            content_type=answer.get("ContentType"),
            disposition=answer.get("ContentDisposition"),
        )


def unquoted(etag: str | None) -> str:
    return (etag or "").strip('"')
