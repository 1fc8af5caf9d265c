"""Publishing to Grafana, against a server that is as strict as its documentation."""

import ipaddress
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grafana_server import TOKEN, FakeGrafana, running_grafana

from dashboards.boards import BOARDS
from dashboards.grafana_errors import PublishFailed
from dashboards.publish import FOLDER_UID, Target, connected, publish

PROMETHEUS = "http://prometheus.internal:9090"


@pytest.fixture
def grafana() -> Iterator[FakeGrafana]:
    with running_grafana() as running:
        yield running


def target(grafana: FakeGrafana, **changes: Any) -> Target:
    return Target(**{"url": grafana.url, "token": TOKEN, "prometheus_url": PROMETHEUS, **changes})


def test_all_of_it_is_there_after_the_first_time(grafana: FakeGrafana) -> None:
    """Folder, data source, dashboards in the folder, and a rule for each alert that asks the data source."""
    outcome = publish(target(grafana))
    assert outcome.unchanged_count == 0
    assert grafana.folders["rayhaul"]["title"] == "Rayhaul"
    assert grafana.datasources["rayhaul-prometheus"]["url"] == PROMETHEUS
    assert set(grafana.dashboards) == {board.uid for board in BOARDS}
    assert {found["folder"] for found in grafana.dashboards.values()} == {FOLDER_UID}
    titles = {rule["title"] for rule in grafana.rules.values()}
    assert {"QueueBacklog", "WorkerOffline", "ApiAvailabilityBudgetBurn1h"} <= titles
    backlog = next(rule for rule in grafana.rules.values() if rule["title"] == "QueueBacklog")
    assert backlog["data"][0]["datasourceUid"] == "rayhaul-prometheus"
    assert backlog["data"][0]["model"]["expr"] == "job:rayhaul_queue_depth:sum > 2000"
    assert backlog["for"] == "2m"
    assert backlog["labels"]["severity"] == "P1"
    assert len(outcome.changes) == 2 + len(BOARDS) + len(grafana.rules)


def test_a_second_time_changes_nothing(grafana: FakeGrafana) -> None:
    """It only looks."""
    publish(target(grafana))
    grafana.seen.clear()
    outcome = publish(target(grafana))
    assert outcome.changes == []
    assert outcome.unchanged_count == 2 + len(BOARDS) + len(grafana.rules)
    assert grafana.writes == []


def test_what_differs_is_put_right_and_nothing_else(grafana: FakeGrafana) -> None:
    """Renamed, moved, edited, left over: each is mended by one request; what is not ours is left alone."""
    publish(target(grafana))
    count = len(grafana.rules)
    grafana.folders[FOLDER_UID].update(title="Renamed", version=7)
    grafana.datasources["rayhaul-prometheus"].update(url="http://old:9090", isDefault=True, basicAuthUser="u")
    grafana.datasources["rayhaul-prometheus"]["jsonData"]["manageAlerts"] = True
    grafana.dashboards["rayhaul-jobs"]["folder"] = ""
    grafana.dashboards["rayhaul-sink"]["model"]["panels"].pop()
    uid = next(iter(grafana.rules))
    grafana.rules[uid]["for"] = "9h"
    rule = grafana.rules[uid]
    grafana.rules["rayhaul-of-an-earlier-release"] = rule | {"uid": "rayhaul-of-an-earlier-release", "title": "Old"}
    grafana.rules["mine"] = rule | {"uid": "mine", "title": "Mine"}
    grafana.seen.clear()
    outcome = publish(target(grafana))
    assert sorted(outcome.changes) == sorted(
        [
            "changed folder Rayhaul",
            "changed data source Rayhaul",
            "changed dashboard Rayhaul · Jobs",
            "changed dashboard Rayhaul · Sink",
            f"changed alert rule {rule['title']}",
            "removed alert rule Old",
        ]
    )
    assert len(grafana.writes) == len(outcome.changes)
    source = grafana.datasources["rayhaul-prometheus"]
    assert (source["url"], source["isDefault"], source["basicAuthUser"]) == (PROMETHEUS, True, "u")
    assert source["jsonData"]["manageAlerts"] is True
    assert len(grafana.rules) == count + 1
    assert publish(target(grafana)).changes == []


def test_a_data_source_that_is_there_is_used(grafana: FakeGrafana) -> None:
    """Without --prometheus none is made or changed; with none to use it says what to do, and publishes no more."""
    with pytest.raises(PublishFailed, match="has no data source 'Mimir'"):
        publish(target(grafana, prometheus_url=None, datasource="Mimir"))
    assert grafana.dashboards == {}
    grafana.datasources["abc"] = {"uid": "abc", "name": "Mimir", "type": "prometheus", "readOnly": True}
    publish(target(grafana, prometheus_url=None, datasource="Mimir"))
    assert set(grafana.datasources) == {"abc"}
    asked = {step["datasourceUid"] for rule in grafana.rules.values() for step in rule["data"]}
    assert asked == {"abc", "__expr__"}


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ((403, b'{"message": "Permissions needed: folders:create"}'), r"the folder .*403 .*Permissions needed.*Editor"),
        ((404, b'{"message": "Not found"}'), r"404 .*does the URL lack a path"),
        ((412, b'{"message": "changed by someone else", "status": "version-mismatch"}'), r"412 .*publish again"),
        ((500, b"Internal Server Error"), r"500 .*Grafana's log"),
        ((200, b"<html>log in</html>"), "not as Grafana's API does"),
    ],
)
def test_refusals_say_what_to_do(grafana: FakeGrafana, instead: tuple[int, bytes], said: str) -> None:
    """One sentence: what, the status, Grafana's own words, and advice."""
    grafana.instead["POST", "/api/folders"] = instead
    with pytest.raises(PublishFailed, match=said):
        publish(target(grafana))


def test_a_dashboard_changed_meanwhile_is_not_written_over(grafana: FakeGrafana) -> None:
    """Somebody saves between our look and our writing: Grafana refuses by the version, and theirs stays."""
    publish(target(grafana))
    stored = grafana.dashboards["rayhaul-jobs"]["model"]
    stored["title"] = "Edited"

    def save(body: Any) -> tuple[int, Any]:
        stored["version"] += 1
        return FakeGrafana.save_dashboard(grafana, body)

    grafana.save_dashboard = save  # type: ignore[method-assign]
    with pytest.raises(PublishFailed, match=r"dashboard Rayhaul · Jobs .*412 .*changed by someone else.*publish again"):
        publish(target(grafana))
    assert stored["title"] == "Edited"


def test_a_wrong_token_is_refused_and_not_shown(grafana: FakeGrafana) -> None:
    """401, and the token in no message."""
    with pytest.raises(PublishFailed, match=r"401 .*the token is not known") as caught:
        publish(target(grafana, token="secret-and-wrong"))
    assert "secret" not in str(caught.value)


def test_nobody_there(grafana: FakeGrafana) -> None:
    """A port where nobody listens, and a name that is none."""
    del grafana
    for url in ("http://127.0.0.1:1", "https://grafana.invalid"):
        with pytest.raises(PublishFailed, match="can not be reached"):
            publish(Target(url=url, token=TOKEN))


@pytest.mark.parametrize("url", ["ftp://g.example", "http://", "http://g.example:99999", "https://u:p@g.example", ""])
def test_what_is_no_address(url: str) -> None:
    """It is said before anything is sent."""
    with pytest.raises(PublishFailed, match="no address of a Grafana"):
        connected(Target(url=url, token=TOKEN))


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("grafana.example", "https://grafana.example/api"),
        ("https://grafana.example/some/path/", "https://grafana.example/some/path/api"),
        ("http://grafana.example:3000", "http://grafana.example:3000/api"),
        ("https://[::1]:3000", "https://[::1]:3000/api"),
    ],
)
def test_https_unless_the_url_says_http(url: str, asked: str) -> None:
    """The library's own default is plain http."""
    assert connected(Target(url=url, token=TOKEN)).api.url == asked


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "grafana for tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, key_pem


def test_certificates_are_checked(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused; with --ca-file it is trusted."""
    pem, key_pem = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_pem)
    with running_grafana(context) as grafana:
        with pytest.raises(PublishFailed, match="can not be trusted"):
            publish(target(grafana))
        assert grafana.seen == []
        assert publish(target(grafana, ca_file=str(pem))).unchanged_count == 0


def run(*words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAYHAUL_GRAFANA_TOKEN": token}
    command = [sys.executable, "-m", "rayhaul.cli.main", "grafana", "publish", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_the_command(grafana: FakeGrafana) -> None:
    """It says what it did; again, that there was nothing to do; errors in one sentence and by exit code 1."""
    first = run("--url", grafana.url, "--prometheus", PROMETHEUS)
    assert first.returncode == 0, first.stderr
    assert "created dashboard Rayhaul · Overview" in first.stdout
    again = run("--url", grafana.url, "--prometheus", PROMETHEUS)
    assert again.stdout.startswith("nothing changed, ")
    refused = run("--url", grafana.url, token="wrong")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "the token is not known" in refused.stderr
    assert run("--url", grafana.url, token="").returncode == 2
