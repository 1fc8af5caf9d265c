"""What a bucket supports and what it refuses, and what either means for Rayhaul: `rayhaul storage-check`.

Laws of this file:
1. The bucket is left as it was: all is written below a prefix of this check's own, and taken away again.
2. One check's failure is its own result; only where the bucket can not be reached at all are the others left out.
3. A bucket will do when each check found what Rayhaul can not do without.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rayhaul.errors import SinkBusy, SinkError
from rayhaul.settings import S3Settings
from tasks import checks_of_objects as objects
from tasks import checks_of_uploads as uploads
from tasks.checked_store import CheckedStore
from tasks.findings import Finding, Result
from tasks.store_calls import Refusal

_NEEDED = frozenset({Result.YES})
#: The store must take the request; whether it does what it asks for is a matter of safety.
_TAKEN = frozenset({Result.YES, Result.NO})
#: It may even refuse: Rayhaul goes on without.
_ANSWERED = frozenset({Result.YES, Result.NO, Result.REFUSED})
_WELCOME = frozenset(Result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    find: Callable[[CheckedStore], Awaitable[Finding]]
    #: The results with which Rayhaul works.
    enough: frozenset[Result]
    #: What YES means for Rayhaul.
    yes: str
    #: What anything else means.
    otherwise: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    name: str
    result: Result
    detail: str
    meaning: str
    #: Whether Rayhaul works with this.
    is_enough: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageReport:
    bucket: str
    #: None: AWS.
    endpoint_url: str | None
    #: That the bucket can be reached stands first.
    checks: Sequence[Checked]
    #: Keys of objects and uploads that could not be taken away again.
    left: Sequence[str]

    @property
    def is_reached(self) -> bool:
        return self.checks[0].is_enough

    @property
    def will_do(self) -> bool:
        """Whether all that Rayhaul needs works."""
        return all(check.is_enough for check in self.checks)


REACH = Check(
    name="bucket is there, credentials are good",
    find=objects.reaches,
    enough=_NEEDED,
    yes="",
    otherwise="nothing works",
)
CHECKS = (
    Check(
        name="clocks agree",
        find=objects.tells_time,
        enough=_WELCOME,
        yes="",
        otherwise="signatures are refused when they are 15 minutes apart: mend this machine's clock",
    ),
    Check(name="PUT by a link", find=objects.puts, enough=_NEEDED, yes="", otherwise="no file can be stored"),
    Check(name="HEAD", find=objects.heads, enough=_NEEDED, yes="", otherwise="no object can be verified"),
    Check(
        name="DELETE",
        find=objects.deletes,
        enough=_NEEDED,
        yes="",
        otherwise="what a cancelled job has published stays there",
    ),
    Check(
        name="GET by a link",
        find=objects.gives_links,
        enough=_NEEDED,
        yes="download links work",
        otherwise="download links do not work",
    ),
    Check(
        name="GET of a range",
        find=objects.gives_ranges,
        enough=_ANSWERED,
        yes="downloads from the bucket can be gone on with",
        otherwise="a download from the bucket that breaks begins anew",
    ),
    Check(
        name="shows what it received",
        find=objects.shows_what_it_received,
        enough=_NEEDED,
        yes="each part is compared with what was sent, by CRC-64/NVME or MD5",
        otherwise="neither its checksum nor its ETag fits the bytes: every PUT counts as damaged",
    ),
    Check(
        name="wrong Content-MD5 refused",
        find=objects.refuses_wrong_md5,
        enough=_TAKEN,
        yes="a small file that is damaged on its way is never published",
        otherwise="a small file that is damaged on its way is seen until the next try replaces it",
    ),
    Check(
        name="metadata kept",
        find=objects.keeps_metadata,
        enough=_ANSWERED,
        yes="objects name their job, and what a cancelled one published is found",
        otherwise="objects do not name their job; what a cancelled one published may stay there",
    ),
    Check(
        name="If-None-Match on PUT",
        find=objects.puts_where_nothing_is,
        enough=_TAKEN,
        yes="an agent that wakes late can not overwrite what others have published",
        otherwise="an agent that wakes late may overwrite what others have published under a key that a caller chose",
    ),
    Check(
        name="If-Match on PUT",
        find=objects.puts_in_the_place_of,
        enough=_TAKEN,
        yes="a file is replaced only where it is still the one that was seen",
        otherwise="of two jobs that replace one file at once the later one wins unseen",
    ),
    Check(
        name="multipart upload",
        find=uploads.uploads_in_parts,
        enough=_NEEDED,
        yes="large files work: opened, parts by links, listed, completed, read back",
        otherwise="large files can not be stored",
    ),
    Check(
        name="uploads listed",
        find=uploads.lists_uploads,
        enough=_NEEDED,
        yes="what an agent left behind when it died is found",
        otherwise="what an agent left behind when it died is not found",
    ),
    Check(
        name="uploads aborted",
        find=uploads.aborts,
        enough=_NEEDED,
        yes="nothing is left of a cancelled job",
        otherwise="parts of cancelled jobs stay, and are paid for",
    ),
    Check(
        name="CRC-64/NVME of the whole",
        find=uploads.keeps_crc,
        enough=_ANSWERED,
        yes="the whole object is verified by the bucket, and no MD5 is computed",
        otherwise="each part is verified by its MD5, which costs the agents more CPU",
    ),
    Check(
        name="wrong CRC-64/NVME refused",
        find=uploads.refuses_wrong_crc,
        enough=_ANSWERED,
        yes="an object with other bytes than were sent is never published",
        otherwise="that an object has the right bytes rests on its parts' checksums",
    ),
    Check(
        name="only the listed parts published",
        find=uploads.publishes_listed_parts_only,
        enough=_TAKEN,
        yes="a part that a lost agent writes late is never published",
        otherwise="a part that a lost agent writes late may be published; only the CRC-64/NVME guards against it",
    ),
    Check(
        name="parts of different sizes",
        find=uploads.takes_uneven_parts,
        enough=_WELCOME,
        yes="not needed: all parts but the last have one size",
        otherwise="no matter: all parts but the last have one size",
    ),
    Check(
        name="ETag of parts is computable",
        find=uploads.has_computable_etag,
        enough=_WELCOME,
        yes="when the answer to Complete is lost, our object is recognised",
        otherwise="when the answer to Complete is lost, the file is uploaded again",
    ),
    Check(
        name="Complete twice",
        find=uploads.completes_twice,
        enough=_WELCOME,
        yes="a lost answer to Complete is asked for again",
        otherwise="after a lost answer to Complete the object itself is looked at",
    ),
    Check(
        name="If-None-Match on Complete",
        find=uploads.completes_where_nothing_is,
        enough=_WELCOME,
        yes="not used: leases see to it that one agent completes",
        otherwise="no matter: leases see to it that one agent completes",
    ),
    Check(
        name="lifecycle rule aborts uploads",
        find=uploads.has_abort_rule,
        enough=_WELCOME,
        yes="a net below our own sweeping, should the ledger be lost",
        otherwise="set one (7 days): should the ledger be lost, open uploads would stay and be paid for",
    ),
)

_MAY_NOT = "the credentials may not do that: see RAYHAUL_S3__ACCESS_KEY_ID, and what its policy allows"
_NO_BUCKET = "there is no bucket {bucket} at {place}: make it, or see RAYHAUL_S3__BUCKET"
_ELSEWHERE = "the bucket is in another region: see RAYHAUL_S3__REGION and RAYHAUL_S3__ENDPOINT_URL"
#: A store's error code -> what to do about it.
_ADVICE = {
    "InvalidAccessKeyId": "the store does not know the access key: see RAYHAUL_S3__ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is not that of the access key: see RAYHAUL_S3__SECRET_ACCESS_KEY",
    "AccessDenied": _MAY_NOT,
    "403": _MAY_NOT,
    "NoSuchBucket": _NO_BUCKET,
    "404": _NO_BUCKET,
    "RequestTimeTooSkewed": "this machine's clock is wrong: let it be set by NTP",
    "PermanentRedirect": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "301": _ELSEWHERE,
    #: No answer at all.
    "silence": "nothing answers at {place}: see RAYHAUL_S3__ENDPOINT_URL, the network and the name service",
    #: The request could not even be made.
    "ours": "see RAYHAUL_S3__ACCESS_KEY_ID, RAYHAUL_S3__SECRET_ACCESS_KEY and RAYHAUL_S3__REGION",
}


async def check_storage(s3: S3Settings, *, name: str, wanted: Sequence[Check] = CHECKS) -> StorageReport:
    """Check the bucket, writing below a prefix that ends with `name`."""
    assert s3.bucket is not None, "no bucket is set"
    prefix = f"{s3.prefix}.rayhaul-storage-check-{name}/"
    async with CheckedStore(s3, prefix=prefix) as store:
        checks = [await _checked(REACH, store)]
        left: Sequence[str] = ()
        if checks[0].is_enough:
            try:
                checks += [await _checked(check, store) for check in wanted]
            finally:
                left = await store.clean()
    return StorageReport(bucket=s3.bucket, endpoint_url=s3.endpoint_url, checks=checks, left=left)


async def _checked(check: Check, store: CheckedStore) -> Checked:
    try:
        finding = await check.find(store)
        meaning = check.yes if finding.result is Result.YES else check.otherwise
    except Refusal as refusal:
        finding, meaning = _refused(refusal.code, refusal.error), _advice(refusal, store.s3) or check.otherwise
    except SinkError as error:
        finding, meaning = _refused("", error), check.otherwise
    except (KeyError, ValueError) as err:
        # Not all that answers to S3's requests gives S3's answers.
        finding, meaning = Finding(Result.ERROR, f"an answer without sense: {err!r}"), check.otherwise
    return Checked(
        name=check.name,
        result=finding.result,
        detail=finding.detail,
        meaning=meaning,
        is_enough=finding.result in check.enough,
    )


def _refused(code: str, error: SinkError) -> Finding:
    return Finding(Result.ERROR if isinstance(error, SinkBusy) else Result.REFUSED, code or error.message)


def _advice(refusal: Refusal, s3: S3Settings) -> str:
    """Return what to do where the store can not be worked with at all; empty where the refusal says nothing of that."""
    is_silent = isinstance(refusal.error, SinkBusy)
    advice = _ADVICE.get(refusal.code or ("silence" if is_silent else "ours"), "")
    return advice.format(bucket=s3.bucket, place=s3.endpoint_url or f"AWS ({s3.region})")
