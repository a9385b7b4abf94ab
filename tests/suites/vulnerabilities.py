"""Known vulnerabilities of locked packages, where their service can be reached: `… FILE` ends with 1 for any."""

import json
import re
import subprocess
import sys
from pathlib import Path

UNREACHABLE = "The vulnerability service cannot be reached: no package was audited."
_UNREACHED = re.compile(r"Could not connect|ConnectionError|ConnectTimeout|ReadTimeout|ProxyError")


def main(file: str) -> None:
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("pip-audit"), "--requirement", file),
            *("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    said, is_well = verdict(done.stdout, done.stderr)
    print(said)
    sys.exit(not is_well)


def verdict(report: str, complaint: str) -> tuple[str, bool]:
    """What pip-audit's answer means, and whether it may stand."""
    if not report.strip():
        unreached = _UNREACHED.search(complaint)
        return (UNREACHABLE, True) if unreached else (f"pip-audit failed:\n{complaint}", False)
    found = json.loads(report)["dependencies"]
    audited = [package for package in found if "skip_reason" not in package]
    faults = [
        f"{package['name']} {package['version']}: {fault['id']},"
        f" mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for package in audited
        for fault in package["vulns"]
    ]
    if faults:
        return "\n".join(faults), False
    if not audited:
        return UNREACHABLE, True
    return f"{len(audited)} of {len(found)} packages audited: no known vulnerability.", True


if __name__ == "__main__":
    main(*sys.argv[1:])
