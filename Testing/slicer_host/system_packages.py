"""The system libraries that Qt and VTK need without a display: installed where that is possible, named where not.

Run before the tests, with plain Python: `python Testing/slicer_host/system_packages.py`. Only Linux needs them.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Shared library -> Debian's package.
_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libxkbcommon.so.0": "libxkbcommon0",
}
_FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
_FONTS = "fonts-dejavu-core"


def missing_packages() -> list[str]:
    """Debian's names of the packages that are missing."""
    missing = [package for library, package in _LIBRARIES.items() if not _loads(library)]
    has_fonts = any(next(folder.rglob("*.[to]tf"), None) for folder in _FONT_FOLDERS if folder.is_dir())
    return missing if has_fonts else [*missing, _FONTS]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def main() -> int:
    """Install what is missing as root on Debian and Ubuntu, else say what to install."""
    missing = missing_packages() if sys.platform == "linux" else []
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=environment)
        subprocess.run(["apt-get", "install", "-qq", "-y", *missing], check=False, env=environment)
        missing = missing_packages()
    if missing:
        print(f"The tests of the Slicer module need: apt-get install {' '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
