"""The caller's correlation id, from the edge to the bucket and back to the caller's own server."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import boto3
import pytest
from inprocess import quick_settings, running_service
from origin import Origin
from receiver import Receiver

from rayhaul.job import FINAL
from rayhaul.log import JsonFormatter
from rayhaul.settings import Settings
from serve_app.seaweed import Seaweed

MINE = "order-4711.from-the-caller"


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.formatter = JsonFormatter("agent")
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    logging.getLogger().addHandler(heard)
    yield heard
    logging.getLogger().removeHandler(heard)


def metadata_of(settings: Settings, key: str) -> dict[str, str]:
    """Return an object's metadata as the bucket has it."""
    s3 = settings.s3
    assert s3.secret_access_key is not None
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        region_name=s3.region,
        aws_access_key_id=s3.access_key_id,
        aws_secret_access_key=s3.secret_access_key.get_secret_value(),
    )
    try:
        found: dict[str, str] = client.head_object(Bucket=str(s3.bucket), Key=key)["Metadata"]
        return found
    finally:
        client.close()


async def test_the_correlation_id_goes_everywhere(store: Seaweed, tmp_path: Path, heard: Heard) -> None:
    """Answer, job, history, stream, webhook, log lines, object, problem and failure have it; the origin does not."""
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
    receiver = Receiver()
    async with (
        receiver.listening(),
        Origin() as origin,
        running_service(tmp_path, settings) as service,
        aiohttp.ClientSession(
            service.url, headers={"Authorization": f"Bearer {service.alice}", "X-Correlation-ID": MINE}
        ) as session,
    ):
        for name, behaviour in (("good.bin", {}), ("gone.bin", {"status": 404})):
            url = origin.add(name, size=1000, **behaviour)
            body = {"url": url, "webhook": receiver.url(name)}
            async with session.post("/jobs", json=body) as answer:
                assert answer.headers["X-Correlation-ID"] == MINE
                job = await answer.json()
            async with asyncio.timeout(30):
                while job["status"] not in FINAL:
                    await asyncio.sleep(0.05)
                    async with session.get(f"/jobs/{job['id']}") as answer:
                        job = await answer.json()
                while not receiver.got(name):
                    await asyncio.sleep(0.05)
            assert job["correlationId"] == MINE
            async with session.get(f"/jobs/{job['id']}/history") as answer:
                events = (await answer.json())["events"]
            assert {(event["correlationId"], event["payload"]["correlationId"]) for event in events} == {(MINE, MINE)}
            async with session.get(f"/jobs/{job['id']}/events") as answer:
                told = [json.loads(line[5:]) for line in (await answer.text()).splitlines() if line.startswith("data:")]
            assert {event["event"] for event in told} >= {"created", job["status"]}
            assert {event["correlationId"] for event in told} == {MINE}
            (delivery,) = receiver.got(name)
            assert delivery.headers["x-correlation-id"] == MINE
            assert json.loads(delivery.body)["data"]["correlationId"] == MINE
            assert MINE not in str([seen.headers for seen in origin.seen(name)])
            if job["result"]:
                found = await asyncio.to_thread(metadata_of, settings, job["result"]["key"])
                assert found["correlation-id"] == MINE
        assert job["error"]["code"] == "source_not_found"
        async with session.get("/jobs/job_nobody") as answer:
            assert (await answer.json())["correlationId"] == MINE
    lines = [json.loads(text) for text in heard.lines]
    about = [line for line in lines if "jobId" in line]
    assert {line["correlationId"] for line in about} == {MINE}
    said = {line["msg"].partition(":")[0] for line in about}
    assert said >= {"POST /jobs 201", "metadata ready", "transfer done", "metadata not to be had"}
