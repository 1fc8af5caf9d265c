"""`rayhaul storage-check` against real S3 servers that differ: SeaweedFS, one as strict as R2, rclone's."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cli_process import MAIN, Environ, Ran, bare_environ, rayhaul
from pydantic import SecretStr
from rclone import rclone_server
from store_proxy import Fault, Operation, StoreProxy

from rayhaul.client.endpoint import write_last_up
from rayhaul.metrics import Meter
from rayhaul.settings import S3Settings
from serve_app.seaweed import Seaweed
from serve_app.storage_check import main
from tasks.findings import Result
from tasks.sink import Sink
from tasks.storage_check import CHECKS, REACH, StorageReport, check_storage

Run = Callable[..., Ran]

CRC = "x-amz-checksum-crc64nvme"
CHECK = {check.name: check for check in CHECKS}
NAMES = [check.name for check in (REACH, *CHECKS)]


def name() -> str:
    return uuid.uuid4().hex


def results(report: StorageReport) -> Mapping[str, Result]:
    return {check.name: check.result for check in report.checks}


def others(report: StorageReport) -> Mapping[str, str]:
    """What is not `yes`, with what was seen."""
    return {
        check.name: f"{check.result} {check.detail}".strip()
        for check in report.checks
        if check.result is not Result.YES
    }


async def everything_in(s3: S3Settings) -> tuple[list[str], list[str]]:
    """Return the keys of all objects and of all open uploads that a check may have left."""
    async with Sink(s3, meter=Meter(), connections_max=1) as sink:
        uploads = [upload.key for upload in await sink.list_uploads() if "storage-check" in upload.key]
        listed = await asyncio.to_thread(sink.calls.client.list_objects_v2, Bucket=sink.bucket)
        return [found["Key"] for found in listed.get("Contents", []) if "storage-check" in found["Key"]], uploads


@pytest.fixture
async def proxy(store: Seaweed) -> AsyncIterator[StoreProxy]:
    async with StoreProxy(store.settings) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """Rclone's S3 server, with a bucket."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as settings:
        yield settings


async def test_a_bucket_that_can_do_everything(store: Seaweed) -> None:
    """All checks say yes, but for the rule that nobody has set; and the bucket is as it was."""
    s3 = store.settings.model_copy(update={"prefix": "team/"})
    report = await check_storage(s3, name=name())
    assert [check.name for check in report.checks] == NAMES
    assert others(report) == {"lifecycle rule aborts uploads": "no none is set, one can be set"}
    assert report.will_do
    assert report.left == []
    assert await everything_in(store.settings) == ([], [])


async def test_a_store_as_strict_as_r2(store: Seaweed) -> None:
    """It refuses checksums that it does not know, and uneven parts: Rayhaul works without."""
    async with StoreProxy(store.settings, strict=True) as strict:
        report = await check_storage(strict.settings, name=name())
    assert others(report) == {
        "CRC-64/NVME of the whole": "refused NotImplemented",
        "wrong CRC-64/NVME refused": "refused NotImplemented",
        "parts of different sizes": "refused InvalidPart",
        # Setting a rule takes a checksum.
        "lifecycle rule aborts uploads": "refused NotImplemented",
    }
    assert report.will_do


async def test_a_store_that_knows_less(rclone: S3Settings) -> None:
    """Rclone's server overlooks conditions, checksums and lifecycle: each is seen, and Rayhaul works."""
    report = await check_storage(rclone, name=name())
    found = results(report)
    assert {check for check, result in found.items() if result is Result.NO} >= {
        "If-None-Match on PUT",
        "If-Match on PUT",
        "CRC-64/NVME of the whole",
        "wrong CRC-64/NVME refused",
    }
    assert found["lifecycle rule aborts uploads"] is Result.REFUSED
    assert found["metadata kept"] is Result.YES
    assert found["only the listed parts published"] is Result.YES
    assert report.will_do
    assert report.left == []


@pytest.mark.parametrize(
    ("change", "seen", "advice"),
    [
        ({"bucket": "no-such-bucket"}, "NoSuchBucket", "RAYHAUL_S3__BUCKET"),
        ({"access_key_id": "nobody"}, "InvalidAccessKeyId", "RAYHAUL_S3__ACCESS_KEY_ID"),
        ({"secret_access_key": SecretStr("wrong")}, "SignatureDoesNotMatch", "RAYHAUL_S3__SECRET_ACCESS_KEY"),
        ({"endpoint_url": "http://127.0.0.1:1"}, "EndpointConnectionError", "RAYHAUL_S3__ENDPOINT_URL"),
        ({"endpoint_url": "http://store.invalid"}, "EndpointConnectionError", "RAYHAUL_S3__ENDPOINT_URL"),
    ],
    ids=["bucket", "key", "secret", "port", "name"],
)
async def test_a_bucket_out_of_reach(store: Seaweed, change: Mapping[str, object], seen: str, advice: str) -> None:
    """The one thing that is wrong is said, with the setting to look at; nothing else is tried."""
    report = await check_storage(store.settings.model_copy(update=change), name=name())
    (only,) = report.checks
    assert seen in only.detail
    assert advice in only.meaning
    assert not report.will_do


@pytest.mark.parametrize(
    ("operation", "fault", "check", "result"),
    [
        ("put_object", Fault(status=403, code="AccessDenied"), "PUT by a link", Result.REFUSED),
        ("create", Fault(status=403, code="AccessDenied"), "multipart upload", Result.REFUSED),
        ("list_uploads", Fault(status=403, code="AccessDenied"), "uploads listed", Result.REFUSED),
        ("complete", Fault(status=503, code="SlowDown"), "multipart upload", Result.ERROR),
        ("head", Fault(status=403), "HEAD", Result.REFUSED),
        # A bit of each part is flipped on its way to a store that tells no checksum.
        ("upload_part", Fault(flip_bit=True, hide_headers=(CRC,)), "multipart upload", Result.ERROR),
    ],
    ids=["put", "create", "list", "complete", "head", "damage"],
)
async def test_what_is_missing_is_named(
    proxy: StoreProxy, operation: Operation, fault: Fault, check: str, result: Result
) -> None:
    """A store that can not do one thing will not do, and the check of that thing says so; others say what they see."""
    proxy.fail(operation, fault, times=1000)
    other = "uploads aborted" if operation == "put_object" else "wrong Content-MD5 refused"
    report = await check_storage(proxy.settings, name=name(), wanted=[CHECK[check], CHECK[other]])
    assert results(report) == {REACH.name: Result.YES, check: result, other: Result.YES}
    assert not report.will_do
    proxy.reset()
    assert await everything_in(proxy.settings) == ([], [])


async def test_what_can_not_be_taken_away_is_told(proxy: StoreProxy) -> None:
    """Uploads that the store does not let us abort are named, so that a person can."""
    proxy.fail("abort", Fault(status=403, code="AccessDenied"), times=1000)
    report = await check_storage(proxy.settings, name=name(), wanted=[CHECK["uploads aborted"]])
    assert results(report)["uploads aborted"] is Result.REFUSED
    (left,) = report.left
    assert left.endswith("/aborted")
    proxy.reset()
    async with Sink(proxy.settings, meter=Meter(), connections_max=1) as sink:
        for upload in await sink.list_uploads(left):
            await sink.abort(upload.key, upload.upload_id)


# --- the command ---


@pytest.fixture
def configured(store: Seaweed) -> Environ:
    s3 = store.settings
    assert s3.secret_access_key is not None
    return {
        "RAYHAUL_S3__ENDPOINT_URL": str(s3.endpoint_url),
        "RAYHAUL_S3__BUCKET": str(s3.bucket),
        "RAYHAUL_S3__ACCESS_KEY_ID": str(s3.access_key_id),
        "RAYHAUL_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the check's main as its process would: with these settings, from an empty directory."""

    def run(environ: Environ, *arguments: str) -> Ran:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setenv("HOME", str(tmp_path))
            for name, value in environ.items():
                patch.setenv(name, value)
            code = main(list(arguments))
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


def test_command(configured: Environ, run: Run) -> None:
    """A table with a line for each check, a sentence at the end, and nothing on stderr."""
    ran = run(configured)
    assert (ran.code, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("bucket rayhaul at http://127.0.0.1:")
    assert all(any(line.startswith(check) for line in lines) for check in NAMES)
    assert lines[-1] == "All that Rayhaul needs works."


def test_command_where_something_is_wrong(configured: Environ, run: Run) -> None:
    """Exit code 1 and JSON that says what to do, a sentence on stderr; no secret is printed."""
    ran = run({**configured, "RAYHAUL_S3__SECRET_ACCESS_KEY": "tiger"}, "--json")
    assert ran.code == 1
    assert ran.json["willDo"] is False
    (check,) = ran.json["checks"]
    assert (check["name"], check["result"], check["isEnough"]) == (REACH.name, "refused", False)
    assert "RAYHAUL_S3__SECRET_ACCESS_KEY" in check["meaning"]
    assert ran.stderr == f"rayhaul: this bucket will not do: {REACH.name}\n"
    assert "tiger" not in ran.stdout
    wrong = run({**configured, "RAYHAUL_S3__THREADS_MAX": "none"})
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "setting s3.threads_max" in wrong.stderr


def test_command_without_a_bucket(tmp_path: Path, store: Seaweed, run: Run) -> None:
    """Where nothing is configured it is the bucket of `rayhaul up`; where that is not, or does not run, it says so."""
    none = run({})
    assert (none.code, none.stdout) == (2, "")
    assert "RAYHAUL_S3__BUCKET" in none.stderr
    place = tmp_path / "data"
    (place / "bucket").mkdir(parents=True)
    (place / "bucket" / "identity.json").write_text((store._directory / "identity.json").read_text())
    (place / "bucket-ports").write_text(" ".join(map(str, store.ports)))
    runs = run({}, "--data-dir", str(place), "--json")
    assert (runs.code, runs.stderr, runs.json["willDo"]) == (0, "", True)
    write_last_up(place, {"HOME": str(tmp_path)})
    (place / "bucket-ports").write_text("1 " * len(store.ports))
    stopped = run({})
    assert stopped.code == 1
    assert "it runs while the cluster does" in stopped.stderr


async def test_command_without_boto3(tmp_path: Path) -> None:
    """The command line alone says what is missing."""
    script = f"import sys; sys.modules['boto3'] = None; {MAIN}"
    ran = await rayhaul(bare_environ(tmp_path), "storage-check", script=script)
    assert ran.code == 2
    assert "pip install 'rayhaul[cluster]'" in ran.stderr


async def test_command_becomes_the_check(tmp_path: Path) -> None:
    """`rayhaul storage-check` goes on as the process that does it, with the arguments it was given."""
    (tmp_path / "serve_app").mkdir()
    (tmp_path / "serve_app" / "__init__.py").touch()
    (tmp_path / "serve_app" / "storage_check.py").write_text("import sys; print(sys.argv[1:]); sys.exit(1)")
    ran = await rayhaul(bare_environ(tmp_path), "storage-check", "--data-dir", "here", "--json")
    assert (ran.code, ran.stdout) == (1, f"{['--data-dir', str(tmp_path / 'here'), '--json']}\n")
