"""Receipts: what a completed job moved, and how that is known."""

from pydantic import Field

from rayhaul.wire.base import ResponseShape, Timestamp


class ValidatorView(ResponseShape):
    """By what the version of the source was told: all that it showed of these."""

    etag: str | None = Field(description="As the source had it.")
    last_modified: str | None = Field(description="As the source had it.")
    digest: str | None = Field(description="`algorithm:hex` of the whole file.")


class ReceiptTimes(ResponseShape):
    """When the job was asked for, began and was completed."""

    created_at: Timestamp = Field(description="When it was asked for.")
    started_at: Timestamp | None = Field(description="When an agent first took it.")
    completed_at: Timestamp | None = Field(description="When the object was published.")


class ReceiptSource(ResponseShape):
    """One of a job's sources. No secrets."""

    url: str = Field(description="Without secrets.")
    bytes: int = Field(description="Of the object, that came from it.")


class ReceiptAgent(ResponseShape):
    """One of the agents that brought the object."""

    agent: str | None = Field(description="Its name; null where its parts came before that was noted.")
    bytes: int = Field(description="Of the object, in the parts that it brought.")


class ReceiptView(ResponseShape):
    """What a completed job moved from where to where, and by what it was compared. No secrets."""

    job_id: str = Field(description="The job's id.")
    correlation_id: str = Field(description="By which its lines in the logs are found.")
    source_url: str = Field(description="As it was asked for, without secrets.")
    final_url: str | None = Field(description="Where redirects led, without its query string.")
    validator: ValidatorView | None = Field(description="Null where the source showed none.")
    bucket: str = Field(description="The bucket that the object is in.")
    key: str = Field(description="Its key there.")
    size_bytes: int = Field(description="Its length.")
    etag: str = Field(description="As the store has it.")
    sha256: str | None = Field(
        description="Hex; null where neither the caller nor the source told one to compare with, and the job was not "
        "asked for it (`computeSha256`)."
    )
    crc64nvme: str | None = Field(
        alias="crc64nvme",
        description="Base64 of the whole object; computed of the bytes as they came from the source.",
    )
    checksum: str | None = Field(
        description="What its bytes were compared with before it was published: the caller's checksum, else what the "
        "source told; null where neither told one, or the source's would have cost a large file its ranges."
    )
    parts: int = Field(description="Parts that the object was made of.")
    sources: list[ReceiptSource] = Field(
        default=[], description="Which of the job's sources brought how much; empty where it has no mirrors."
    )
    copied_from: str | None = Field(
        None,
        description="The job whose object was copied within the bucket, where nothing was fetched (`dedupe`).",
    )
    times: ReceiptTimes = Field(description="Of the job.")
    agents: list[str] = Field(description="All that moved bytes of it, in any attempt.")
    brought_by: list[ReceiptAgent] = Field(
        default=[], description="Which of them brought how much of the object as it stands in the bucket."
    )
    attempt: int = Field(description="Tries it took.")
    requeues: int = Field(description="How often it was taken back from an agent that was lost or silent.")
