"""Presigned PUTs are those of boto3, and errors of stores are told apart."""

from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from rayhaul.metrics import Meter
from rayhaul.settings import S3Settings, TransferSettings
from tasks.store_calls import StoreCalls

HEADERS = {
    "Content-Type": "text/plain",
    "Content-Disposition": "attachment; filename=\"_.txt\"; filename*=UTF-8''%C3%A4.txt",
    "Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg==",
    "x-amz-meta-job-id": "job_1",
}
AS_PARAMETERS: dict[str, Any] = {
    "ContentType": HEADERS["Content-Type"],
    "ContentDisposition": HEADERS["Content-Disposition"],
    "ContentMD5": HEADERS["Content-MD5"],
    "Metadata": {"job-id": "job_1"},
}


def taken_apart(url: str) -> tuple[str, str, str, dict[str, list[str]]]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path, parse_qs(parts.query)


@pytest.mark.parametrize(
    ("endpoint_url", "region", "bucket", "base"),
    [
        ("http://127.0.0.1:8333", "auto", "files", "http://127.0.0.1:8333/files/"),
        ("https://abc.r2.example", "auto", "files", "https://abc.r2.example/files/"),
        (None, "eu-west-1", "files", "https://files.s3.eu-west-1.amazonaws.com/"),
        (None, "eu-west-1", "dotted.files", "https://s3.eu-west-1.amazonaws.com/dotted.files/"),
    ],
)
@pytest.mark.parametrize("key", ["a", "a b/ä+c~!*'()", "a//b", "%2F?x=1&y#z"])
async def test_a_presigned_put_is_boto3s(
    endpoint_url: str | None, region: str, bucket: str, base: str, key: str
) -> None:
    """The same host, path, parameters, signed headers and signature as `generate_presigned_url` gives."""
    s3 = S3Settings(
        endpoint_url=endpoint_url,
        region=region,
        bucket=bucket,
        access_key_id="AKEXAMPLE",
        secret_access_key=SecretStr("secret"),
    )
    calls = StoreCalls(s3, meter=Meter(), retries=TransferSettings(), answer_timeout_s=1, rng=Random(1))
    try:
        for operation, query, headers, parameters in (
            ("put_object", {}, HEADERS, AS_PARAMETERS),
            ("upload_part", {"uploadId": "id/=+ x", "partNumber": "3"}, {}, {"UploadId": "id/=+ x", "PartNumber": 3}),
        ):
            # The signature has the second in it: two of the same second are compared.
            for _ in range(3):
                ours = taken_apart(await calls.presign_put(key, query=query, headers=headers))
                theirs = taken_apart(
                    calls.client.generate_presigned_url(
                        operation, Params={"Bucket": bucket, "Key": key, **parameters}, ExpiresIn=3600
                    )
                )
                if ours[3]["X-Amz-Date"] == theirs[3]["X-Amz-Date"]:
                    break
            assert ours == theirs
            assert f"{ours[0]}://{ours[1]}{ours[2]}".startswith(base)
    finally:
        calls.client.close()
