"""Whether a job's file is in the bucket already: what stands for its content, and what an earlier job must show.

Laws of this file:
1. Two jobs of one user have the same file where the earlier one's bytes had the SHA-256 that is asked for now; or where
   one URL shows the same length and the same strong ETag or digest to both.
2. A checksum that is asked for must be one that the earlier job's bytes were compared with, or had.
3. Everything else is doubt, and then the file is downloaded.
"""

import json

from rayhaul.job import Job, JobStatus
from rayhaul.origins import sources_of


def source_text(job: Job) -> str | None:
    """Return what stands for the version of the file that a job's source showed; None where nothing can."""
    found = job.metadata
    if found is None or found.size_bytes is None:
        return None
    etag = found.etag if found.etag is not None and not found.etag.startswith(("W/", "w/")) else None
    if etag is None and found.digest is None:
        return None
    sources = sources_of(job.spec)
    if found.source >= len(sources):
        return None
    return json.dumps([job.user_id, sources[found.source].url, found.size_bytes, etag, found.digest])


def sha256_asked(job: Job) -> str | None:
    """Return the SHA-256 that a job's bytes must have, as hex; None where none was asked for."""
    algorithm, _, value = (job.spec.checksum or "").partition(":")
    return value if algorithm == "sha256" else None


def has_file_of(earlier: Job, job: Job) -> bool:
    """Say whether an earlier job's object is the file of a job whose source was just looked at."""
    if earlier.status is not JobStatus.COMPLETED or earlier.result is None or earlier.user_id != job.user_id:
        return False
    if job.metadata is None or job.metadata.size_bytes != earlier.result.size_bytes:
        return False
    if job.spec.compute_sha256 and earlier.result.sha256 is None:
        return False
    wanted = sha256_asked(job)
    if wanted is not None:
        return earlier.result.sha256 == wanted
    text = source_text(job)
    return text is not None and text == source_text(earlier) and _has_checksum_of(earlier, job)


def _has_checksum_of(earlier: Job, job: Job) -> bool:
    asked = job.spec.checksum
    if asked is None or asked == earlier.spec.checksum:
        return True
    assert earlier.result is not None, "it is completed"
    algorithm, _, value = asked.partition(":")
    return algorithm == "crc64nvme" and value == earlier.result.crc64nvme
