"""What may be asked for as a source: by scheme, by what is installed, and by what an operator has switched on."""

import pytest

from rayhaul.errors import EgressDenied, InvalidRequest
from rayhaul.settings import EgressSettings, Settings, SourcesSettings
from tasks import extras
from tasks.guard import AddressGuard
from tasks.schemes import SourceRules


def rules(**sources: str) -> SourceRules:
    settings = Settings().model_copy(update={"sources": SourcesSettings.model_validate(sources)})
    return SourceRules(settings, AddressGuard(EgressSettings()))


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example/f",
        "ftp://a.example/f",
        "FTP://a:b@a.example:21/f;type=i",
        "ftps://a.example/f",
        "ftpes://a.example/f",
        "sftp://a:b@a.example/f",
        "sftp://a@93.184.216.34/~/f",
        "s3://media/f",
        f"magnet:?xt=urn:btih:{'a' * 40}&tr=https%3A%2F%2Fa.example%2Fannounce",
    ],
)
def test_what_is_taken(url: str) -> None:
    """With everything installed and switched on."""
    rules(s3_buckets="media", sftp_known_hosts="a.example ssh-ed25519 AAAA", torrent_scratch="/scratch").check(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gopher://a.example/f", "http://, https://, s3://, ftp://"),
        ("file:///etc/passwd", "must begin with"),
        ("magnet:?xt=urn:btih:0", r"sources\.torrent_scratch"),
        ("a.example/f", "must begin with"),
        ("ftp://a.example/", "name a file"),
        ("ftp:///f", "no host"),
        ("ftp://a.example/f?x=1", "without a query"),
        ("sftp://a@a.example/f", r"sources\.sftp_known_hosts"),
        ("s3://media/f", r"sources\.s3_buckets"),
    ],
)
def test_what_is_refused(url: str, reason: str) -> None:
    """Unknown schemes, what names no file, and what no operator has switched on."""
    with pytest.raises(InvalidRequest, match=reason):
        rules().check(url)


def test_a_user_for_sftp() -> None:
    """Nobody logs in to SFTP without a name."""
    with pytest.raises(InvalidRequest, match="needs a user"):
        rules(sftp_known_hosts="a.example ssh-ed25519 AAAA").check("sftp://a.example/f")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://127.0.0.1/f", "ftp://10.0.0.1/f", "ftp://[::1]/f", "ftp://2130706433/f", "ftp://0x7f.1/f"),
        *("ftp://a.example:80/f", "ftp://a.example:22/f", "ftps://a.example:21/f"),
    ],
)
def test_what_is_denied(url: str) -> None:
    """Addresses and ports are the guard's, with each protocol's own port in place of HTTP's."""
    with pytest.raises(EgressDenied):
        rules().check(url)


@pytest.mark.parametrize(
    ("url", "extra"),
    [("ftp://a.example/f", "ftp"), ("sftp://a:b@a.example/f", "sftp"), ("magnet:?xt=urn:btih:0", "torrent")],
)
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, url: str, extra: str) -> None:
    """What is not installed says how it is."""
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(InvalidRequest, match=rf"pip install 'rayhaul\[{extra}\]'"):
        rules(sftp_known_hosts="a.example ssh-ed25519 AAAA").check(url)
