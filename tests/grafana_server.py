"""A Grafana for tests: the endpoints of its HTTP API that publishing uses, as documented, and strict.

It refuses fields that the documentation does not have, versions that are not the newest, and names that are taken.
Sources: docs/sources/developers/http_api of grafana/grafana: folder.md, data_source.md, dashboard.md,
alerting_provisioning.md.
"""

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "glsa_a_token"
UID = re.compile(r"[A-Za-z0-9_-]{1,40}")

_DATASOURCE = {
    "id", "uid", "orgId", "name", "type", "access", "url", "password", "user", "database", "basicAuth",
    "basicAuthUser", "secureJsonData", "isDefault", "jsonData", "withCredentials", "version",
}  # fmt: skip
_RULE = {
    "annotations", "condition", "data", "execErrState", "folderUID", "for", "id", "isPaused", "labels", "noDataState",
    "orgID", "provenance", "ruleGroup", "title", "uid", "updated",
}  # fmt: skip
_RULE_REQUIRED = {
    "condition", "data", "execErrState", "folderUID", "for", "noDataState", "orgID", "ruleGroup", "title",
}  # fmt: skip
_QUERY = {"datasourceUid", "model", "queryType", "refId", "relativeTimeRange"}
#: What a dashboard may have at its top (kinds/dashboard of Grafana).
_DASHBOARD = {
    "annotations", "description", "editable", "fiscalYearStartMonth", "gnetId", "graphTooltip", "id", "links",
    "liveNow", "panels", "preload", "refresh", "revision", "schemaVersion", "snapshot", "style", "tags", "templating",
    "time", "timepicker", "timezone", "title", "uid", "version", "weekStart",
}  # fmt: skip


class Refused(Exception):
    def __init__(self, status: int, message: str, /, **more: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"message": message, **more}


def require(holds: object, status: int, message: str, /, **more: str) -> None:
    if not holds:
        raise Refused(status, message, **more)


def only(body: Any, allowed: set[str], required: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    require(isinstance(body, Mapping), 400, "bad request data")
    require(set(body) <= allowed, 400, f"unknown fields: {sorted(set(body) - allowed)}")
    require(required <= set(body), 400, f"missing fields: {sorted(required - set(body))}")


@dataclass
class FakeGrafana:
    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasources: dict[str, dict[str, Any]] = field(default_factory=dict)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: (method, path) of all requests that were let in, and those of them that write.
    seen: list[tuple[str, str]] = field(default_factory=list)
    #: Answers in place of the real ones, by (method, pattern of the path).
    instead: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    url: str = ""

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.seen if method != "GET"]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return (status, body). Raises: Refused."""
        self.seen.append((method, path))
        for (verb, pattern), (status, text) in self.instead.items():
            if verb == method and re.search(pattern, path):
                return status, text
        for (verb, pattern), route in self.routes.items():
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                return route(*match.groups(), *([] if method in ("GET", "DELETE") else [body]))
        raise Refused(404, "Not found")

    @property
    def routes(self) -> Mapping[tuple[str, str], Callable[..., tuple[int, Any]]]:
        rules = "/api/v1/provisioning/alert-rules"
        return {
            ("GET", "/api/folders/([^/]+)"): lambda uid: (200, self.known(self.folders, uid, "folder not found")),
            ("POST", "/api/folders"): self.create_folder,
            ("PUT", "/api/folders/([^/]+)"): self.update_folder,
            ("GET", "/api/datasources/name/([^/]+)"): self.datasource_of_name,
            ("POST", "/api/datasources"): self.create_datasource,
            ("PUT", "/api/datasources/uid/([^/]+)"): self.update_datasource,
            ("GET", "/api/dashboards/uid/([^/]+)"): self.dashboard,
            ("POST", "/api/dashboards/db"): self.save_dashboard,
            ("GET", rules): lambda: (200, list(self.rules.values())),
            ("POST", rules): self.create_rule,
            ("PUT", f"{rules}/([^/]+)"): self.update_rule,
            ("DELETE", f"{rules}/([^/]+)"): lambda uid: (204, self.rules.pop(uid, None) and None),
        }

    @staticmethod
    def known(there: dict[str, dict[str, Any]], uid: str, message: str) -> dict[str, Any]:
        require(uid in there, 404, message)
        return there[uid]

    def create_folder(self, body: Any) -> tuple[int, Any]:
        only(body, {"uid", "title", "parentUid"}, {"title"})
        require(UID.fullmatch(body["uid"]), 400, "uid contains illegal characters")
        require(body["uid"] not in self.folders, 409, "a folder with that uid exists")
        self.folders[body["uid"]] = {**body, "id": len(self.folders) + 1, "version": 1}
        return 200, self.folders[body["uid"]]

    def update_folder(self, uid: str, body: Any) -> tuple[int, Any]:
        only(body, {"title", "version", "overwrite"}, {"title"})
        folder = self.known(self.folders, uid, "folder not found")
        newest = body.get("overwrite") or body.get("version") == folder["version"]
        require(newest, 412, "The folder has been changed by someone else", status="version-mismatch")
        folder.update(title=body["title"], version=folder["version"] + 1)
        return 200, folder

    def datasource_of_name(self, name: str) -> tuple[int, Any]:
        found = [source for source in self.datasources.values() if source["name"] == name]
        require(found, 404, "Data source not found")
        return 200, found[0]

    def create_datasource(self, body: Any) -> tuple[int, Any]:
        only(body, _DATASOURCE, {"name", "type", "access"})
        taken = any(source["name"] == body["name"] for source in self.datasources.values())
        require(not taken, 409, "data source with the same name already exists")
        made = {"orgId": 1, "isDefault": False, "basicAuth": False, "readOnly": False, **body}
        made |= {"id": len(self.datasources) + 1, "version": 1}
        self.datasources[body["uid"]] = made
        return 200, {"datasource": made, "id": made["id"], "message": "Datasource added", "name": made["name"]}

    def update_datasource(self, uid: str, body: Any) -> tuple[int, Any]:
        only(body, _DATASOURCE, {"name", "type", "access"})
        source = self.known(self.datasources, uid, "Data source not found")
        require(not source["readOnly"], 403, "Cannot update read-only data source")
        # What is not said is gone: an update is the whole data source.
        self.datasources[uid] = {"readOnly": False, **body, "id": source["id"], "version": source["version"] + 1}
        return 200, {"datasource": self.datasources[uid], "id": source["id"], "message": "Datasource updated"}

    def dashboard(self, uid: str) -> tuple[int, Any]:
        found = self.known(self.dashboards, uid, "Dashboard not found")
        return 200, {"dashboard": found["model"], "meta": {"folderUid": found["folder"], "url": f"/d/{uid}/x"}}

    def save_dashboard(self, body: Any) -> tuple[int, Any]:
        only(body, {"dashboard", "folderId", "folderUid", "message", "overwrite", "refresh"}, {"dashboard"})
        model = body["dashboard"]
        only(model, _DASHBOARD, {"title", "panels"})
        require(UID.fullmatch(model["uid"]), 400, "uid contains illegal characters")
        require(body.get("folderUid", "") in {"", *self.folders}, 400, "folder not found")
        before = self.dashboards.get(model["uid"])
        if before is None:
            require(model.get("id") is None, 404, "Dashboard not found")
        elif not body.get("overwrite"):
            taken = "A dashboard with the same uid already exists"
            require(model.get("id") is not None, 412, taken, status="name-exists")
            newest = model.get("version") == before["model"]["version"]
            message = "The dashboard has been changed by someone else"
            require(newest, 412, message, status="version-mismatch")
        version = 1 if before is None else before["model"]["version"] + 1
        number = len(self.dashboards) + 1 if before is None else before["model"]["id"]
        stored = {**model, "id": number, "version": version}
        self.dashboards[model["uid"]] = {"model": stored, "folder": body.get("folderUid", "")}
        return 200, {"id": number, "uid": model["uid"], "url": "/d/x", "status": "success", "version": version}

    def create_rule(self, body: Any) -> tuple[int, Any]:
        self.check_rule(body)
        require(body["uid"] not in self.rules, 409, "a rule with that uid exists")
        added = {"id": len(self.rules) + 1, "provenance": "api", "updated": "2026-01-01T00:00:00Z"}
        self.rules[body["uid"]] = {**body, **added}
        return 201, self.rules[body["uid"]]

    def update_rule(self, uid: str, body: Any) -> tuple[int, Any]:
        self.check_rule(body)
        self.rules[uid] = {**self.known(self.rules, uid, "Not found."), **body}
        return 200, self.rules[uid]

    def check_rule(self, body: Any) -> None:
        only(body, _RULE, _RULE_REQUIRED)
        require(UID.fullmatch(body["uid"]), 400, "invalid alert rule: uid")
        require(body["folderUID"] in self.folders, 400, "folder does not exist")
        require(body["noDataState"] in {"OK", "NoData", "Alerting", "KeepLast"}, 400, "unknown no data state")
        require(body["execErrState"] in {"OK", "Error", "Alerting", "KeepLast"}, 400, "unknown error state")
        require(re.fullmatch(r"(\d+[smhdw])+", body["for"]), 400, "not a valid duration")
        require(len(body["title"]) <= 190, 400, "title too long")
        steps = body["data"]
        require(body["condition"] in {step["refId"] for step in steps}, 400, "condition does not exist")
        for step in steps:
            only(step, _QUERY, {"refId", "datasourceUid", "model"})
            require(step["datasourceUid"] in {"__expr__", *self.datasources}, 400, "data source not found")
            require(step["model"]["refId"] == step["refId"], 400, "refId of step and model differ")
            is_query = step["datasourceUid"] != "__expr__"
            span = step["relativeTimeRange"]
            require(not is_query or span["from"] > span["to"], 400, "invalid relative time range")
        twice = [r for r in self.rules.values() if r["title"] == body["title"] and r["uid"] != body["uid"]]
        require(not twice, 409, "a rule with that title exists in that folder")
        require(all(isinstance(v, str) for v in [*body["labels"].values(), *body["annotations"].values()]), 400, "text")


def _handler(grafana: FakeGrafana) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            text = self.rfile.read(length)
            try:
                require(self.headers["Authorization"] == f"Bearer {TOKEN}", 401, "Invalid API key")
                body = json.loads(text) if text else None
                if body is not None:
                    require(self.headers["Content-Type"] == "application/json", 400, "bad content type")
                status, answer = grafana.answer(self.command, self.path, body)
            except Refused as refused:
                status, answer = refused.status, refused.body
            payload = b"" if status == 204 else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - as http.server calls them

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def running_grafana(tls: ssl.SSLContext | None = None) -> Iterator[FakeGrafana]:
    """Yield a Grafana that answers on a free port, by https where it is given a certificate."""
    grafana = FakeGrafana()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(grafana))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    grafana.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield grafana
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
