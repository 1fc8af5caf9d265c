"""Settings: read from the environment, refused by name, documented from the model."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rayhaul.settings import EgressSettings, Settings
from rayhaul.settings_doc import settings_table

ROOT = Path(__file__).parents[2]


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Groups nest by two underscores; lists are split at commas; the file comes after the environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rayhaul.yaml").write_text("agent: {slots: 5, probe_slots: 6}\nlog_level: debug\n")
    monkeypatch.setenv("RAYHAUL_CONFIG", str(tmp_path / "rayhaul.yaml"))
    monkeypatch.setenv("RAYHAUL_EGRESS__ALLOW", "127.0.0.1/32, files.example:8080")
    monkeypatch.setenv("RAYHAUL_EGRESS__PORTS", "80")
    monkeypatch.setenv("RAYHAUL_AGENT__SLOTS", "7")
    settings = Settings()
    assert settings.egress == EgressSettings(allow=("127.0.0.1/32", "files.example:8080"), ports=(80,))
    assert (settings.agent.slots, settings.agent.probe_slots, settings.log_level) == (7, 6, "debug")


@pytest.mark.parametrize(
    ("variable", "value", "where"),
    [
        ("RAYHAUL_AGENT__SLOTS", "0", ("agent", "slots")),
        ("RAYHAUL_S3__PRESIGN_EXPIRES_S", "604801", ("s3", "presign_expires_s")),
        ("RAYHAUL_LIVENESS__OFFLINE", "60", ("liveness", "offline")),
    ],
)
def test_refused_by_name(
    variable: str, value: str, where: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Out of bounds, or unknown within a group: the error says where."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"] == where


@pytest.mark.parametrize(("prefix", "is_taken"), [("", True), ("in/", True), ("in", False)])
def test_a_prefix_that_is_owned(
    prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_taken: bool
) -> None:
    """It is a folder: with `in` the uploads of another cluster under `inner/` would be taken for nobody's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYHAUL_S3__PREFIX", prefix)
    assert Settings().s3.prefix == prefix
    monkeypatch.setenv("RAYHAUL_SWEEP__OWNS_PREFIX", "true")
    if is_taken:
        assert Settings().sweep.owns_prefix
    else:
        with pytest.raises(ValidationError, match=r"s3\.prefix has to end in /"):
            Settings()


def test_secrets_do_not_print(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A secret key is not in the settings' text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYHAUL_S3__SECRET_ACCESS_KEY", "hush-hush")
    assert "hush" not in repr(Settings())


def test_what_is_on_where_nobody_says_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Five tries, a sweep every ten minutes, limits for the first byte, for silence and for the least speed."""
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.transfer.part_attempts_max == 5
    assert settings.sweep.interval_s == 600
    source = settings.source
    assert 0 < source.first_byte_timeout_s <= 120
    assert 0 < source.stall_timeout_s <= 120
    assert source.speed_bytes_per_s_min > 0


def test_document_is_fresh() -> None:
    """docs/settings.md is what the model says (`make docs`)."""
    assert (ROOT / "docs/settings.md").read_text() == settings_table()
