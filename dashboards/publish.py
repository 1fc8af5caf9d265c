"""Puts folder, data source, dashboards and alert rules into a Grafana: `rayhaul grafana publish`.

Laws of this file:
1. What stands there already as we have it is left alone: a second run changes nothing, and says so.
2. What somebody changed between our look and our writing is not written over: Grafana refuses by its version (412).
3. The token goes by https unless the URL says http, and into no message.

Sources: Grafana's HTTP API (folder, data source, dashboard, alerting provisioning).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import requests
from grafana_api.grafana_api import GrafanaClientError
from grafana_api.grafana_face import GrafanaFace

from dashboards.grafana_alerts import PREFIX, grafana_rules
from dashboards.grafana_errors import NOT_FOUND, TIMEOUT_S, Explained, PublishFailed
from dashboards.rules import Runbooks
from rayhaul.errors import ServiceError

FOLDER_UID, FOLDER = "rayhaul", "Rayhaul"
_DATASOURCE_UID = "rayhaul-prometheus"
_RULES = "/v1/provisioning/alert-rules"
#: Where Grafana listens by itself.
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A Grafana, and what it is to look at."""

    #: https://grafana.example/some/path; without a scheme it is https.
    url: str
    token: str
    #: Name of the data source.
    datasource: str = FOLDER
    #: Where Prometheus answers, as Grafana's server reaches it; None: the data source is there already.
    prometheus_url: str | None = None
    #: File with the certificates to trust; None: the system's.
    ca_file: str | None = None
    #: Where the runbook pages are.
    runbooks: str | None = None


@dataclass(slots=True)
class Outcome:
    #: One line for each thing that was created, changed or removed.
    changes: list[str] = field(default_factory=list)
    unchanged_count: int = 0

    def note(self, verb: str | None, what: str) -> None:
        if verb is None:
            self.unchanged_count += 1
        else:
            self.changes.append(f"{verb} {what}")


def connected(target: Target) -> GrafanaFace:
    """Return Grafana's API. Nothing is sent yet. Raises: PublishFailed where the URL is none."""
    url = urlsplit(target.url if "://" in target.url else f"https://{target.url}")
    try:
        port = url.port
    except ValueError:
        port = -1
    if url.scheme not in ("http", "https") or not url.hostname or port == -1 or url.query or url.username:
        raise PublishFailed(f"{target.url!r} is no address of a Grafana: https://host[:port][/path] is")
    path = url.path.strip("/")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return GrafanaFace(
        target.token,
        host=host,
        port=port,
        protocol=url.scheme,
        url_path_prefix=f"{path}/" if path else "",
        verify=target.ca_file or True,
        timeout=TIMEOUT_S,
    )


def publish(target: Target) -> Outcome:
    """Bring the Grafana up to what we have. Raises: PublishFailed; what was done until then stays."""
    grafana, outcome = connected(target), Outcome()
    with Explained(target.url, "the folder"):
        outcome.note(_put_folder(grafana), f"folder {FOLDER}")
    with Explained(target.url, f"the data source {target.datasource}"):
        verb, datasource_uid = _put_datasource(grafana, target)
        outcome.note(verb, f"data source {target.datasource}")
    for document in _documents():
        with Explained(target.url, f"the dashboard {document['title']}"):
            outcome.note(_put_dashboard(grafana, document), f"dashboard {document['title']}")
    pages = Runbooks() if target.runbooks is None else Runbooks(target.runbooks)
    _put_rules(
        grafana, target, grafana_rules(folder_uid=FOLDER_UID, datasource_uid=datasource_uid, pages=pages), outcome
    )
    return outcome


def _documents() -> Sequence[Mapping[str, Any]]:
    folder = files("dashboards").joinpath("generated", "grafana")
    return [json.loads(file.read_text("utf-8")) for file in sorted(folder.iterdir(), key=lambda file: file.name)]


def _put_folder(grafana: GrafanaFace) -> str | None:
    found = _unless_missing(lambda: grafana.folder.get_folder(FOLDER_UID))
    if found is None:
        grafana.folder.create_folder(FOLDER, FOLDER_UID)
        return "created"
    if found["title"] == FOLDER:
        return None
    grafana.folder.update_folder(FOLDER_UID, title=FOLDER, version=found["version"])
    return "changed"


def _put_datasource(grafana: GrafanaFace, target: Target) -> tuple[str | None, str]:
    """Return what was done, and the data source's uid."""
    found = _unless_missing(lambda: grafana.datasource.get_datasource_by_name(target.datasource))
    if target.prometheus_url is None:
        if found is None:
            raise PublishFailed(
                f"{target.url} has no data source {target.datasource!r}: name another one (--datasource), or say where "
                "Prometheus is (--prometheus), and it is made"
            )
        return None, str(found["uid"])
    wanted: dict[str, Any] = {
        "name": target.datasource,
        "type": "prometheus",
        "access": "proxy",
        "url": target.prometheus_url,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    if found is None:
        grafana.datasource.create_datasource({**wanted, "uid": _DATASOURCE_UID})
        return "created", _DATASOURCE_UID
    uid = str(found["uid"])
    if _holds(found, wanted):
        return None, uid
    # What is set there beside it, secrets and default among them, stays.
    kept = {name: found[name] for name in ("id", "orgId", "isDefault", "basicAuth", "basicAuthUser") if name in found}
    merged = {**wanted, **kept, "uid": uid, "jsonData": {**found.get("jsonData", {}), **wanted["jsonData"]}}
    # By uid: by id, as the library has it, is deprecated.
    grafana.api.PUT(f"/datasources/uid/{uid}", json=merged)
    return "changed", uid


def _put_dashboard(grafana: GrafanaFace, document: Mapping[str, Any]) -> str | None:
    found = _unless_missing(lambda: grafana.dashboard.get_dashboard(document["uid"]))
    if found is not None and found["meta"].get("folderUid") == FOLDER_UID and _holds(found["dashboard"], document):
        return None
    known = {"id": None} if found is None else {name: found["dashboard"][name] for name in ("id", "version")}
    grafana.dashboard.update_dashboard(
        {
            "dashboard": {**document, **known},
            "folderUid": FOLDER_UID,
            "message": "rayhaul grafana publish",
            "overwrite": False,
        }
    )
    return "created" if found is None else "changed"


def _put_rules(grafana: GrafanaFace, target: Target, rules: Sequence[Mapping[str, Any]], outcome: Outcome) -> None:
    with Explained(target.url, "the alert rules"):
        there = {rule["uid"]: rule for rule in grafana.api.GET(_RULES)}
    for rule in rules:
        found, what = there.get(rule["uid"]), f"alert rule {rule['title']}"
        with Explained(target.url, f"the {what}"):
            if found is None:
                grafana.api.POST(_RULES, json=rule)
            elif not _holds(found, rule):
                # The organisation is the one of the token, whatever its number.
                grafana.api.PUT(f"{_RULES}/{rule['uid']}", json={**rule, "orgID": found["orgID"]})
            outcome.note("created" if found is None else None if _holds(found, rule) else "changed", what)
    ours = {rule["uid"] for rule in rules}
    for uid, rule in there.items():
        if rule["folderUID"] == FOLDER_UID and uid.startswith(PREFIX) and uid not in ours:
            with Explained(target.url, f"the alert rule {rule['title']}"):
                _delete(grafana, f"{_RULES}/{uid}")
            outcome.note("removed", f"alert rule {rule['title']}")


def _delete(grafana: GrafanaFace, path: str) -> None:
    try:
        grafana.api.DELETE(path)
    except requests.exceptions.JSONDecodeError:
        # 204: it is gone, and the library looks for a body.
        return


def _holds(found: Any, wanted: Any) -> bool:
    """Say whether all that is wanted stands there. What Grafana adds does not matter, nor its organisation's number."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            name == "orgID" or _holds(found.get(name), value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_holds, found, wanted))
    return bool(found == wanted)


def _unless_missing(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except GrafanaClientError as error:
        if error.status_code == NOT_FOUND:
            return None
        raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="rayhaul grafana publish")
    parser.add_argument("--url", required=True)
    parser.add_argument("--datasource", default=FOLDER)
    parser.add_argument("--prometheus")
    parser.add_argument("--ca-file")
    parser.add_argument("--runbooks")
    asked = parser.parse_args()
    # Not as an argument: those are for all to see.
    token = os.environ.get("RAYHAUL_GRAFANA_TOKEN", "")
    if asked.url.startswith("http://") and urlsplit(asked.url).hostname not in _LOOPBACK:
        print("warning: without https the token can be read on the way", file=sys.stderr)
    try:
        outcome = publish(
            Target(
                url=asked.url,
                token=token,
                datasource=asked.datasource,
                prometheus_url=asked.prometheus,
                ca_file=asked.ca_file,
                runbooks=asked.runbooks,
            )
        )
    except ServiceError as error:
        print(f"rayhaul: {error.message}", file=sys.stderr)
        return 1
    for change in outcome.changes:
        print(change)
    print(f"{len(outcome.changes) or 'nothing'} changed, {outcome.unchanged_count} as they were")
    return 0


if __name__ == "__main__":
    sys.exit(main())
