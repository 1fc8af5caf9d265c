"""The signature of a PUT is the one that botocore makes of the same request."""

from datetime import UTC, datetime, timedelta
from unittest import mock
from urllib.parse import unquote

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.signing import Credentials, _signing_key, presigned_put

#: Each has a key of its own, which is kept.
_DAYS = (datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC), datetime(2026, 2, 4, 4, 5, 6, tzinfo=UTC))
_KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)
_VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)
_NAMES = st.sampled_from(["Content-Type", "Content-MD5", "If-None-Match", "x-amz-meta-a", "X-Amz-Meta-B", "If-Match"])


def _by_botocore(url: str, *, query: dict[str, str], headers: dict[str, str], token: str | None, now: datetime) -> str:
    request = AWSRequest(method="PUT", url=url, params=query, headers=headers)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        S3SigV4QueryAuth(BotoCredentials("id", "secret", token), "s3", "auto", expires=3600).add_auth(request)
    return str(request.url)


@settings(max_examples=300)
@given(
    key=_KEYS,
    query=st.dictionaries(st.sampled_from(["uploadId", "partNumber"]), _VALUES),
    headers=st.dictionaries(_NAMES, _VALUES),
    token=st.none() | _VALUES,
    now=st.sampled_from(_DAYS),
    base_url=st.sampled_from(
        [
            "https://bucket.s3.eu-west-1.amazonaws.com/",
            "http://127.0.0.1:8333/bucket/",
            "https://account.r2.cloudflarestorage.com:443/bucket/",
            "http://store.example:80/a/b/",
            "http://[::1]:9000/bucket/",
        ]
    ),
)
def test_it_is_botocores(
    *, key: str, query: dict[str, str], headers: dict[str, str], token: str | None, base_url: str, now: datetime
) -> None:
    ours = presigned_put(
        base_url,
        key,
        query=query,
        headers=headers,
        credentials=Credentials(access_key_id="id", secret_access_key="secret", session_token=token),
        region="auto",
        now=now,
        expires_s=3600,
    )
    path, _, asked = ours.partition("?")
    assert unquote(path.removeprefix(base_url)) == key
    theirs = _by_botocore(path, query=query, headers=headers, token=token, now=now)
    assert sorted(asked.split("&")) == sorted(theirs.partition("?")[2].split("&"))


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials(access_key_id="id", secret_access_key="secret", session_token="token"))
    assert "secret'" not in shown
    assert "token'" not in shown


def test_a_days_key_is_derived_once() -> None:
    """However many PUTs are signed on it; another day, secret or region has its own, and old ones are forgotten."""
    _signing_key.cache_clear()

    def sign(day: int, *, secret: str = "secret", region: str = "auto") -> tuple[int, int]:
        """Return how many keys were derived so far, and how many are kept."""
        presigned_put(
            "http://127.0.0.1:8333/bucket/",
            "key",
            query={},
            headers={},
            credentials=Credentials(access_key_id="id", secret_access_key=secret),
            region=region,
            now=_DAYS[0] + timedelta(days=day),
            expires_s=3600,
        )
        info = _signing_key.cache_info()
        return info.misses, info.currsize

    assert [sign(0) for _ in range(3)] == [(1, 1)] * 3
    assert [sign(1), sign(0), sign(1)] == [(2, 2)] * 3
    assert [sign(0, secret="other"), sign(0, region="eu")] == [(3, 3), (4, 4)]
    assert max(sign(day)[1] for day in range(100)) == 8
