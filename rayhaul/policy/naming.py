"""Names: what a downloaded file is called, and which key its object gets."""

import re
import unicodedata
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import quote, unquote_to_bytes, urlsplit

from rayhaul.errors import InvalidRequest

#: Leaves room for what file systems and tools add to a name, within their usual 255.
FILENAME_BYTES_MAX = 180
#: Source: S3, object key names.
KEY_BYTES_MAX = 1024
#: Longer "extensions" are part of the name.
_EXTENSION_BYTES_MAX = 20

# Source: Microsoft, "Naming files, paths, and namespaces".
_WINDOWS_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*", re.IGNORECASE)
#: One parameter of Content-Disposition, its value quoted or not. Source: RFC 6266 4.1.
_PARAMETER = re.compile(r';?\s*([^\s=;"]+)\s*(?:=\s*("(?:\\.|[^"\\])*"|[^;]*))?\s*(?=;|$)')
_EXTENDED = re.compile(r"([A-Za-z0-9._-]+)'[^']*'(.*)")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
#: Characters of a filename* that stand for themselves, besides letters and digits. Source: RFC 8187 3.2.1, attr-char.
_ATTR_CHARACTERS = "!#$&+-.^_`|~"


def filename_of(content_disposition: str | None, final_url: str, fallback: str = "download") -> str:
    r"""Return a safe file name: of the header, else of the URL's last path segment, else `fallback`.

    >>> filename_of("attachment; filename=a.txt; filename*=UTF-8''%C3%A4.txt", "https://files.example/x")
    'ä.txt'
    """
    for candidate in (*_disposition_names(content_disposition or ""), _url_name(final_url), fallback):
        if name := clean(candidate):
            return name
    return "download"


def clean(name: str) -> str:
    r"""Return the name safe for object keys and file systems; empty where nothing is left of it.

    >>> clean("../../etc/pass\x00wd")
    'passwd'
    """
    # Cc, Cf, Cs: control, invisible and bidirectional characters, half surrogate pairs; Zl, Zp: line separators.
    kept = "".join(
        " " if unicodedata.category(letter) == "Zs" else letter
        for letter in name
        if unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    )
    last = unicodedata.normalize("NFC", kept).replace("\\", "/").rpartition("/")[2]
    # Leading dots hide a file, trailing dots and spaces vanish on Windows.
    bare = last.lstrip(". ").rstrip(". ")
    if _WINDOWS_RESERVED.fullmatch(bare.partition(".")[0]):
        bare = f"_{bare}"
    return _shortened(bare)


def content_disposition(filename: str) -> str:
    r"""Return the header for a response that is to be saved as `filename`. Source: RFC 6266 4.3, appendix D.

    >>> content_disposition("ä.txt")
    'attachment; filename="_.txt"; filename*=UTF-8\'\'%C3%A4.txt'
    """
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\%' else "_" for letter in filename)
    extended = quote(filename, safe=_ATTR_CHARACTERS, encoding="utf-8", errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{extended}"


#: As `rayhaul.ids` makes them.
_JOB_ID = re.compile(r"job_[0-9a-hjkmnp-tv-z]{26}")


def object_key(prefix: str, job_id: str, wanted_key: str | None, filename: str) -> str:
    """Return the key of a job's object: `{prefix}{wanted}`, else `{prefix}{job_id}/{filename}`.

    Raises: InvalidRequest where the store could not keep it under that key.
    """
    key = f"{prefix}{wanted_key}" if wanted_key is not None else f"{prefix}{job_id}/{filename}"
    check_key(key)
    return key


def job_of_key(prefix: str, key: str) -> str | None:
    """Return the id of the only job that can have this key; None of a key that a caller named.

    >>> job_of_key("in/", "in/job_01kfa2v6s0e8m3q5w7y9b1d3f5/a.iso"), job_of_key("in/", "in/a.iso")
    ('job_01kfa2v6s0e8m3q5w7y9b1d3f5', None)
    """
    first, slash, _ = key.removeprefix(prefix).partition("/")
    return first if slash and key.startswith(prefix) and _JOB_ID.fullmatch(first) else None


def check_key(key: str) -> None:
    """Check a whole key, prefix included.

    Raises: InvalidRequest.
    """
    try:
        length_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("The key has a character that cannot be written.") from None
    if not 0 < length_bytes <= KEY_BYTES_MAX:
        raise InvalidRequest(f"The key must have 1 to {KEY_BYTES_MAX} bytes, the prefix included.")
    if any(unicodedata.category(letter) == "Cc" for letter in key):
        raise InvalidRequest("The key has a control character.")
    # Stores that map keys to paths fold these, and the object would stand under another key.
    if any(component in {"", ".", ".."} for component in key.split("/")):
        raise InvalidRequest("The key must not begin or end with '/', nor have empty, '.' or '..' components.")


def _disposition_names(header: str) -> Iterator[str]:
    """Yield the names a Content-Disposition offers, the best first."""
    parameters = _parameters(header)
    if (extended := parameters.get("filename*")) is not None:
        yield _extended_value(extended)
    if (plain := parameters.get("filename")) is not None:
        yield _plain_value(plain)


def _parameters(header: str) -> dict[str, str]:
    """Return the parameters by their names in lower case, quotes kept; of two with one name the first."""
    found: dict[str, str] = {}
    position = 0
    while 0 <= position < len(header):
        # Matched from semicolon to semicolon: searching would take quadratic time over a long run of spaces.
        match = _PARAMETER.match(header, position)
        if match is None:
            position = header.find(";", position + 1)
            continue
        found.setdefault(match[1].lower(), (match[2] or "").strip())
        position = match.end()
    return found


def _extended_value(value: str) -> str:
    """Return `charset'language'percent-encoded` decoded; empty where it is malformed. Source: RFC 8187 3.2."""
    found = _EXTENDED.fullmatch(_unquoted(value))
    if found is None:
        return ""
    try:
        return unquote_to_bytes(found[2]).decode(found[1])
    except (LookupError, ValueError):
        return ""


def _plain_value(value: str) -> str:
    """Return a `filename` value; what servers write against the RFC (raw UTF-8, Latin-1, %20, MIME words) is read."""
    text = _unquoted(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Not UTF-8: the bytes were kept as half surrogate pairs.
        text = text.encode("utf-8", "surrogateescape").decode("latin-1")
    if text.startswith("=?"):
        try:
            return str(make_header(decode_header(text)))
        except (HeaderParseError, LookupError, ValueError):
            return text
    return _percent_decoded(text) if _PERCENT.search(text) else text


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        # Only these two are really escaped; elsewhere a backslash is a Windows path's.
        return re.sub(r'\\(["\\])', r"\1", value[1:-1])
    return value.strip("'\"")


def _percent_decoded(text: str) -> str:
    raw = unquote_to_bytes(text)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return text


def _url_name(url: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return _percent_decoded(path.rpartition("/")[2])


def _shortened(name: str) -> str:
    """Return the name within FILENAME_BYTES_MAX bytes of UTF-8, its extension kept."""
    if len(name.encode()) <= FILENAME_BYTES_MAX:
        return name
    stem, dot, extension = name.rpartition(".")
    tail = f"{dot}{extension}".encode()
    if not stem or len(tail) > _EXTENSION_BYTES_MAX:
        stem, tail = name, b""
    if stem.endswith(".tar"):
        stem, tail = stem.removesuffix(".tar"), b".tar" + tail
    cut = stem.encode()[: FILENAME_BYTES_MAX - len(tail)].decode(errors="ignore")
    return cut.rstrip(". ") + tail.decode()
