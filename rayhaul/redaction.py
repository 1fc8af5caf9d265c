"""Taking secrets out of text that people, logs and other companies' servers get to see.

Laws of this file:
1. A URL loses user info, query and fragment: there is no telling which parameter is a signature.
2. Rather too much than too little: what looks like a secret is one.
3. The time is linear in the text's length, whatever a stranger wrote into it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

HIDDEN = "***"

#: Whatever follows the scheme up to a blank or a bracket; quotes may stand in a password.
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s\"<>]+")
#: Trackers in it have passwords in their paths, and encoded URLs are none for the pattern above.
_MAGNET = re.compile(r"\bmagnet:\?[^\s\"<>]+", re.IGNORECASE)
_TOPIC = re.compile(r"[?&]xt(?:\.\d{1,3})?=urn:(bt[im]h:[0-9a-z]{32,72})(?![0-9a-z])", re.IGNORECASE)
#: What closes a sentence or a quotation around a URL is none of its path.
_AFTER_URL = "'),.;:]}"
#: A query without a URL before it: libraries tell of paths.
_QUERY = re.compile(r"(?<=\S)\?[^\s?\"'<>=]*=[^\s\"<>]*")
_KEY = re.compile(r"\brayhaul_live_[0-9A-Za-z_]*")
_WEBHOOK_SECRET = re.compile(r"\bwhsec_[0-9A-Za-z+/=_-]*")
#: RFC 7235 credentials, wherever they stand.
_CREDENTIALS = re.compile(r"\b(bearer|basic|digest|aws4-hmac-sha256)\s+(?!realm)[^\s\"',]+", re.IGNORECASE)
#: A header, as it is sent or as Python shows it, to the end of its value: cookies have blanks and semicolons.
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-(?:api|auth|amz|goog)-[a-z-]{1,40})\b([\"']?\s{0,3}[:=,]\s{0,3})"
    r"(?:b?\"[^\"\n]*\"|b?'[^'\n]*'|[^\n]+)",
    re.IGNORECASE,
)
#: name=value and 'name': 'value' of what is secret by its name.
_NAMED = re.compile(
    r"([a-z0-9_-]{0,40}(?:secret|password|passwd|pwd|token|signature|credential|api_?-?key|access_?-?key(?:_?id)?))"
    r"([\"']?=[\"']?|[\"']\s{0,3}:\s{0,3}[\"'])[^\s\"',;&}]+",
    re.IGNORECASE,
)
#: In this order. A text without any of the words cannot match: to look for them takes a tenth of the pattern's time.
_PATTERNS: tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...] = (
    (_KEY, f"rayhaul_live_{HIDDEN}", ("rayhaul_live_",)),
    (_WEBHOOK_SECRET, f"whsec_{HIDDEN}", ("whsec_",)),
    (_QUERY, f"?{HIDDEN}", ("?",)),
    (_HEADER, rf"\1\2{HIDDEN}", ("authorization", "cookie", "x-")),
    (_CREDENTIALS, rf"\1 {HIDDEN}", ("bearer", "basic", "digest", "aws4-hmac-sha256")),
    (_NAMED, rf"\1\2{HIDDEN}", ("secret", "passw", "pwd", "token", "signature", "credential", "key")),
)


def redacted(url: str) -> str:
    """Return the URL without what may be secret: user info, query and fragment.

    >>> redacted("https://me:pw@files.example/a/b.iso?token=x#y")
    'https://files.example/a/b.iso'
    >>> redacted("magnet:?xt=urn:btih:" + "a" * 40 + "&tr=https://tracker.example/passkey/announce")
    'magnet:?xt=urn:btih:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
    """
    if url[:7].lower() == "magnet:":
        topic = topic_of(url)
        return f"magnet:?xt=urn:{topic}" if topic else "magnet:"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(unreadable URL)"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def topic_of(url: str) -> str:
    """Return what a magnet link is about, `btih:…` or `btmh:…` in lower case; nothing where it does not say."""
    found = _TOPIC.search(url)
    return "" if found is None else found[1].lower()


def without_url_secrets(text: str) -> str:
    """Return the text with every URL in it cut down to scheme, host and path.

    >>> without_url_secrets("GET https://me:pw@files.example/a?sig=1 said 403")
    'GET https://files.example/a said 403'
    """
    if "magnet:" in text.lower():
        text = _MAGNET.sub(_redacted_match, text)
    return _URL.sub(_redacted_match, text) if "://" in text else text


def _redacted_match(match: re.Match[str]) -> str:
    whole = match.group()
    url = whole.rstrip(_AFTER_URL)
    return redacted(url) + whole[len(url) :]


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """Return the text without the secrets in URLs, queries, headers and named values, and without the `known` ones.

    >>> without_secrets("GET /a?X-Amz-Signature=12ab failed, Authorization: Bearer eyJh", known=())
    'GET /a?*** failed, Authorization: ***'
    """
    for secret in known:
        text = text.replace(secret, HIDDEN)
    text = without_url_secrets(text)
    # Letters that are no ASCII may stand for some that are, where case is ignored.
    lower = text.lower() if text.isascii() else None
    for pattern, instead, words in _PATTERNS:
        if lower is None or any(word in lower for word in words):
            text = pattern.sub(instead, text)
    return text


def clean(value: Any) -> Any:
    """Return JSON with the secrets of every URL in it removed."""
    if isinstance(value, str):
        return without_url_secrets(value)
    if isinstance(value, Mapping):
        return {name: clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return value
