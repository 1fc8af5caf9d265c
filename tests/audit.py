"""Known holes in what is installed: pip-audit against PyPI's advisories; says so where they can not be had.

python tests/audit.py
"""

import subprocess
import sys
from pathlib import Path

_UNREACHABLE = 3
#: What pip-audit says where it could not ask: no network, or a mirror that has no advisories.
_NOT_ASKED = ("could not be audited", "ConnectionError", "Connection error", "Max retries", "Name or service not known")


def main() -> int:
    command = [str(Path(sys.executable).with_name("pip-audit")), "--strict", "--local", "--progress-spinner", "off"]
    done = subprocess.run([*command, "--skip-editable"], capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="", end="")
    if done.returncode != 0 and any(words in done.stderr for words in _NOT_ASKED):
        print("NOT AUDITED: PyPI's advisories can not be had from here; nothing is known of any hole, or of none.")
        return _UNREACHABLE
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
