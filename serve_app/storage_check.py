"""`rayhaul storage-check`: the process that tries out the bucket and prints what it found."""

import argparse
import asyncio
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.text import Text

from rayhaul.cli.connect import Exit
from rayhaul.cli.output import complain, console, plain, print_json, table
from rayhaul.client.endpoint import read_last_up
from rayhaul.settings import Settings
from serve_app.embedded import bucket_of
from tasks.findings import Result
from tasks.storage_check import Checked, StorageReport, check_storage

#: So much of the name is random: two checks at once do not meet.
_NAME_BYTES = 6


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rayhaul storage-check", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="check the bucket of `rayhaul up` in that directory")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> Exit:
    arguments = _arguments(argv)
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        complain(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}")
        return Exit.USAGE
    data_dir = None
    s3 = settings.s3
    if arguments.data_dir is not None or not s3.is_set:
        data_dir = arguments.data_dir or read_last_up() or settings.data_dir.expanduser().resolve()
        embedded = bucket_of(data_dir)
        if embedded is None:
            complain(f"no bucket is configured (RAYHAUL_S3__BUCKET), and {data_dir} has none of `rayhaul up`")
            return Exit.USAGE
        s3 = embedded
    report = asyncio.run(check_storage(s3, name=secrets.token_hex(_NAME_BYTES)))
    _tell(report, as_json=arguments.json)
    if data_dir is not None and not report.is_reached:
        complain(f"that is the bucket of `rayhaul up` in {data_dir}: it runs while the cluster does")
    return Exit.OK if report.will_do else Exit.FAILED


def _tell(report: StorageReport, *, as_json: bool) -> None:
    if as_json:
        print_json(_jsonable(report))
    else:
        rows = table("CHECK", "RESULT", "SEEN", "MEANS")
        for check in report.checks:
            rows.add_row(check.name, _result(check), Text(plain(check.detail)), Text(plain(check.meaning)))
        screen = console()
        screen.print(f"bucket {plain(report.bucket)} at {plain(report.endpoint_url or 'AWS')}", style="bold")
        screen.print(rows)
        if report.will_do:
            screen.print("All that Rayhaul needs works.")
    missing = [check.name for check in report.checks if not check.is_enough]
    if missing:
        complain(f"this bucket will not do: {', '.join(missing)}")
    if report.left:
        complain(f"could not be taken away again, please do: {', '.join(report.left)}")


def _result(check: Checked) -> Text:
    if not check.is_enough:
        return Text(f"{check.result} !", style="bold red")
    return Text(check.result, style="green" if check.result is Result.YES else "yellow")


def _jsonable(report: StorageReport) -> Mapping[str, Any]:
    return {
        "bucket": report.bucket,
        "endpointUrl": report.endpoint_url,
        "willDo": report.will_do,
        "checks": [
            {
                "name": check.name,
                "result": str(check.result),
                "isEnough": check.is_enough,
                "detail": check.detail,
                "meaning": check.meaning,
            }
            for check in report.checks
        ],
        "left": report.left,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
