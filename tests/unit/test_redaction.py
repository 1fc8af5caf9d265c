"""What is taken out of a text before people see it."""

import time
from collections.abc import Callable

import pytest

from rayhaul.redaction import clean, redacted, without_secrets, without_url_secrets

KEY = "rayhaul_live_4kQ0ZbR7_0aGhb1pQ0aGhb1pQ0aGhb1pQ0aGhb1pQ0aGhb1pQ0aG_2Bq9Zk"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("nothing to hide: a/b?c=d", "nothing to hide: a/b?c=d"),
        ("s3://bucket/key?x=1 and http://u@h/p?q#f.", "s3://bucket/key and http://h/p."),
        ('"https://h/p?q"', '"https://h/p"'),
        ("('https://h/p', 1)", "('https://h/p', 1)"),
        ("https://me:it's@h/p", "https://h/p"),
        ("https://[::1]:99/p?q", "https://[::1]:99/p"),
        ("https://[broken/p?q=s3cr3t", "(unreadable URL)"),
        (f"magnet:?xt=urn:btih:{'A' * 40}&tr=http%3A%2F%2Ft%2Fs3cr3t&x=1 is", f"magnet:?xt=urn:btih:{'a' * 40} is"),
        (f"'magnet:?tr=http://t/s3cr3t/a&xt=urn:btmh:1220{'b' * 64}'", f"'magnet:?xt=urn:btmh:1220{'b' * 64}'"),
        ("Magnet:?tr=http://t/s3cr3t/a", "magnet:"),
        ("postgresql+psycopg://me:s3cr3t@db:5432/rayhaul", "postgresql+psycopg://db:5432/rayhaul"),
    ],
)
def test_urls_in_texts(text: str, cleaned: str) -> None:
    """Each URL in a text is cut down; the rest stays."""
    assert without_url_secrets(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "HEAD /bucket/key?X-Amz-Credential=a&X-Amz-Signature=s3cr3t returned 403",
        "/p?sig='s3cr3t'",
        "Authorization: Bearer s3cr3t",
        "{'Authorization': 'Basic s3cr3t', 'Accept': '*/*'}",
        "[(b'cookie', b'a=s3cr3t; b=s3cr3t')]",
        "Cookie: a=1; session=s3cr3t, b=s3cr3t",
        "'Set-Cookie': 'id=s3cr3t; Path=/'",
        "x-amz-security-token:s3cr3t",
        'X-Api-Key: "s3cr3t"',
        "sent bearer s3cr3t",
        "AWS4-HMAC-SHA256 Credential=s3cr3t/2026, SignedHeaders=host, Signature=s3cr3t",
        "password=s3cr3t host=db",
        '{"refresh_token": "s3cr3t"}',
        "S3Settings(secret_access_key='s3cr3t')",
        "whsec_s3cr3t+/=",
        "key rayhaul_live_s3cr3t was refused",
        "the secret itself, s3cr3t-in-full, that a setting holds",
    ],
)
def test_secrets_in_texts(text: str) -> None:
    """Queries, headers, credentials, named values, our keys, and secrets that are known."""
    assert "s3cr3t" not in without_secrets(text, ["s3cr3t-in-full"])


@pytest.mark.parametrize(
    "text",
    [
        "webhooks are not signed: webhook.secret is not set",
        "GET /jobs/{job_id} 200",
        "transfer done: job_1/what? a=b.bin",
        "    token = _bound.set({})",
        'WWW-Authenticate: Basic realm="files"',
        "a basic idea; the digest differs",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Sentences about secrets, and code, can still be read."""
    assert without_secrets(text) in (
        text,
        text.replace("basic idea;", "basic ***").replace("digest differs", "digest ***"),
    )


def test_api_keys() -> None:
    """A key of ours is known by its prefix, in any place."""
    assert without_secrets(f"/jobs;{KEY}/x") == "/jobs;rayhaul_live_***/x"


def test_json() -> None:
    """Strings anywhere in a value are cleaned; the rest keeps its type."""
    value = {"url": "https://u:p@h/x?y", "list": ["s3://b/k?z", 1, None], "count": 2}
    assert clean(value) == {"url": "https://h/x", "list": ["s3://b/k", 1, None], "count": 2}


def test_unreadable_url() -> None:
    """What cannot be read cannot be cut down, and is not shown."""
    assert redacted("https://user:p/w@h/") == "(unreadable URL)"


@pytest.mark.parametrize(
    "text", ["a" * 64_000, "?" * 64_000, "?a=" * 20_000, "x-api-" * 10_000, "token" * 12_000, "a://" * 16_000]
)
def test_time_is_linear(text: str) -> None:
    """No text of a stranger's takes long: a quadratic pattern needs minutes for these."""
    began_s = time.process_time()
    without_secrets(text)
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize("shout", [str, str.upper])
@pytest.mark.parametrize(
    "text",
    [
        "Authorization: hush",
        "Proxy-Authorization: hush",
        "Cookie: a; b=hush",
        "X-Amz-Date: hush",
        "Bearer hush",
        "Basic hush",
        "Digest hush",
        "AWS4-HMAC-SHA256 hush",
        "secret=hush",
        "password=hush",
        "passwd=hush",
        "pwd=hush",
        "token=hush",
        "signature=hush",
        "credential=hush",
        "api_key=hush",
        "access_key_id=hush",
        "'my_token': 'hush'",
        "of GET /a?b=hush",
        # The long s and the Kelvin sign are an s and a k where case is ignored.
        "\N{LATIN SMALL LETTER LONG S}ecret=hush",
        "api\N{KELVIN SIGN}ey=hush to\N{KELVIN SIGN}en=hush",
    ],
)
def test_each_kind_of_secret_is_hidden_by_itself(text: str, shout: Callable[[str], str]) -> None:
    """Nothing else in the text tells that there is one."""
    assert "hush" not in without_secrets(shout(text)).lower()
