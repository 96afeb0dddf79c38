"""Programs that tests compare with or talk to: installed where that is possible, named where not.

Run before the tests, with plain Python: `python Testing/support/system_packages.py`. Tests that need one of these say
so and are skipped where it is missing, so that this never fails.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Program or file -> Debian's package.
_PROGRAMS = {
    "Orthanc": "orthanc",
    "/usr/share/orthanc/plugins/libOrthancDicomWeb.so": "orthanc-dicomweb",
    "dciodvfy": "dicom3tools",
    "initdb": "postgresql",
    "chromium": "chromium",
}
_PATH = ":".join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing_packages() -> list[str]:
    """Debian's names of the packages that are missing."""
    return [package for name, package in _PROGRAMS.items() if shutil.which(name, os.F_OK, _PATH) is None]


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep Debian from starting an archive of its own on the usual ports: the tests start theirs."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def main() -> None:
    """Install what is missing as root on Debian and Ubuntu, else say what to install."""
    missing = missing_packages() if sys.platform == "linux" else []
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with _no_service_starts():
            subprocess.run(["apt-get", "update", "-qq"], check=False, env=environment)
            for package in missing:  # one that a system does not have must not keep the others out
                subprocess.run(["apt-get", "install", "-qq", "-y", package], check=False, env=environment)
        missing = missing_packages()
    if missing:
        print(f"Tests are left out that need: apt-get install {' '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    main()
