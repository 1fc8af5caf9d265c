"""What files and objects are called."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhaul.errors import InvalidRequest
from rayhaul.policy.naming import (
    FILENAME_BYTES_MAX,
    KEY_BYTES_MAX,
    check_key,
    clean,
    content_disposition,
    filename_of,
    object_key,
)

URL = "https://files.example/dir/from-url.bin?x=y"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="a.txt"', "a.txt"),
        ("attachment; filename=a.txt", "a.txt"),
        ("attachment;filename=a.txt;size=3", "a.txt"),
        ("inline; FileName = a.txt ; x=y", "a.txt"),
        ("filename=a.txt", "a.txt"),
        ("attachment; filename=my file.txt", "my file.txt"),
        ("attachment; filename='a.txt'", "a.txt"),
        ('attachment; filename="a.txt', "a.txt"),
        (r'attachment; filename="a\"b\\c.txt"', "c.txt"),
        (r'attachment; filename="a\"b.txt"', 'a"b.txt'),
        (r'attachment; filename="C:\dir\a.txt"', "a.txt"),
        ('attachment; filename="a;b.txt"; x=1', "a;b.txt"),
        ('attachment; x="; filename=evil.exe"; filename=good.txt', "good.txt"),
        ("attachment; filename=first.txt; filename=second.txt", "first.txt"),
        ("attachment; filename=a.txt; filename*=UTF-8''%C3%A4.txt", "ä.txt"),
        ("attachment; filename*=UTF-8''%C3%A4.txt; filename=a.txt", "ä.txt"),
        ("attachment; filename*=utf-8'de'%e2%82%ac%20rates.csv", "€ rates.csv"),
        ("attachment; filename*=ISO-8859-1''%E4.txt", "ä.txt"),
        ("attachment; filename*=\"UTF-8''%C3%A4.txt\"", "ä.txt"),
        ("attachment; filename*=UTF-8''%E4.txt; filename=a.txt", "a.txt"),
        ("attachment; filename*=nonsense''x.txt; filename=a.txt", "a.txt"),
        ("attachment; filename*=bare.txt; filename=a.txt", "a.txt"),
        ('attachment; filename="ä.txt"', "ä.txt"),
        ('attachment; filename="\udce4.txt"', "ä.txt"),
        ('attachment; filename="my%20file.txt"', "my file.txt"),
        ('attachment; filename="100%.txt"', "100%.txt"),
        ('attachment; filename="%FF.txt"', "%FF.txt"),
        ('attachment; filename="=?UTF-8?B?w6QudHh0?="', "ä.txt"),
        ('attachment; filename="=?nonsense?B?w6QudHh0?="', "=?nonsense?B?w6QudHh0?="),
        ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ('attachment; filename="../../.bashrc"', "bashrc"),
        ("attachment;;; =x; filename=a.txt", "a.txt"),
        ("a" + " " * 8000 + "=; filename=a.txt", "a.txt"),
        ("a b c; filename=a.txt", "a.txt"),
        ('attachment; filename=""', "from-url.bin"),
        ('attachment; filename="/"', "from-url.bin"),
        ('attachment; filename=".."', "from-url.bin"),
        ("attachment", "from-url.bin"),
        ("", "from-url.bin"),
        (None, "from-url.bin"),
    ],
)
def test_name_from_the_header(header: str | None, name: str) -> None:
    """`filename*` counts before `filename`, and what servers really write is read."""
    assert filename_of(header, URL) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://files.example/a/b%20c.txt", "b c.txt"),
        ("https://files.example/a%2Fb.txt", "b.txt"),
        ("https://files.example/%C3%A4.txt#x", "ä.txt"),
        ("https://files.example/%E4.txt", "%E4.txt"),
        ("https://files.example/dir/", "download"),
        ("https://files.example", "download"),
        ("https://files.example/%2e%2e", "download"),
        ("https://[broken", "download"),
    ],
)
def test_name_from_the_url(url: str, name: str) -> None:
    """Without a header the last segment of the final URL is the name, decoded; without one, the fallback."""
    assert filename_of(None, url) == name


def test_fallback_is_cleaned_too() -> None:
    """A fallback is no way around the rules."""
    assert filename_of(None, "https://files.example/", "../x") == "x"
    assert filename_of(None, "https://files.example/", "..") == "download"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a\x00b\r\n\t.txt", "ab.txt"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("a\u2066b\u2069\u200b.txt", "ab.txt"),
        ("a\u2028b", "ab"),
        ("a\u00a0b\u3000c", "a b c"),
        ("a\u0308.txt", "ä.txt"),
        ("a\u200d\u0308.txt", "ä.txt"),
        (r"..\..\x", "x"),
        ("...hidden", "hidden"),
        (" . x. . ", "x"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("Com1.tar.gz", "_Com1.tar.gz"),
        ("LPT².x", "_LPT².x"),
        ("NUL .txt", "_NUL .txt"),
        ("console.txt", "console.txt"),
        ("com10", "com10"),
        ("", ""),
        ("///", ""),
    ],
)
def test_clean(name: str, kept: str) -> None:
    """What hides, misleads or means a device is taken out; the rest stays."""
    assert clean(name) == kept


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("x" * 300 + ".iso", ".iso"),
        ("€" * 100 + ".txt", ".txt"),
        ("x" * 300 + ".tar.gz", ".tar.gz"),
        ("x" * 300, "x"),
        ("x." + "y" * 300, "y"),
        ("x" * 175 + ". . . . . . . .txt", ".txt"),
    ],
)
def test_long_name_keeps_its_extension(name: str, ending: str) -> None:
    """A long name is cut in its stem, at a whole character."""
    short = clean(name)
    assert short.endswith(ending)
    assert not short.removesuffix(ending).endswith((".", " "))
    assert len(short.encode()) <= FILENAME_BYTES_MAX
    assert len(short.encode()) > FILENAME_BYTES_MAX - 20


@given(st.text())
@example("x" * 179 + "€.txt")
@example("\u0344" * 100)
def test_clean_name_is_safe(name: str) -> None:
    """Whatever comes in, what comes out is short, has no path in it, is NFC, and is clean when cleaned again."""
    kept = clean(name)
    assert len(kept.encode()) <= FILENAME_BYTES_MAX
    assert not set(kept) & set("/\\\x00\r\n")
    assert kept not in {".", ".."}
    assert not kept.startswith((".", " "))
    assert not kept.endswith((".", " "))
    assert unicodedata.is_normalized("NFC", kept)
    assert not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs"} for letter in kept)
    assert clean(kept) == kept


@given(st.text(min_size=1))
def test_content_disposition_round_trip(name: str) -> None:
    """The header is plain ASCII on one line, and leads back to the name."""
    kept = clean(name) or "download"
    header = content_disposition(kept)
    assert header.isascii()
    assert header.isprintable()
    assert filename_of(header, URL) == kept


def test_content_disposition() -> None:
    """Old clients get an ASCII name, new ones the real one; a quote cannot end the string."""
    assert content_disposition('ä"; x=1.txt') == (
        "attachment; filename=\"__; x=1.txt\"; filename*=UTF-8''%C3%A4%22%3B%20x%3D1.txt"
    )


def test_object_key() -> None:
    """A wanted key stands under the prefix; without one the job's id keeps names apart."""
    assert object_key("in/", "job_1", "a/b.txt", "x.txt") == "in/a/b.txt"
    assert object_key("in/", "job_1", None, "x.txt") == "in/job_1/x.txt"
    assert object_key("", "job_1", None, "x.txt") == "job_1/x.txt"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "a/../b",
        "..",
        "./a",
        "a/.",
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "\ud800",
        "x" * (KEY_BYTES_MAX + 1),
        "€" * 400,
    ],
)
def test_bad_key(key: str) -> None:
    """A key that a store could fold, cut or refuse is refused first."""
    with pytest.raises(InvalidRequest):
        check_key(key)


@pytest.mark.parametrize("key", ["a", "a/b c/ä.txt", "...", "a..b/.x", "x" * KEY_BYTES_MAX])
def test_good_key(key: str) -> None:
    """Dots inside a name, spaces and letters of any script are fine."""
    check_key(key)


def test_prefix_counts_towards_the_length() -> None:
    """The limit is the store's, so it is of the whole key."""
    assert len(object_key("in/", "job_1", "x" * (KEY_BYTES_MAX - 3), "x")) == KEY_BYTES_MAX
    with pytest.raises(InvalidRequest):
        object_key("in/", "job_1", "x" * (KEY_BYTES_MAX - 2), "x")
