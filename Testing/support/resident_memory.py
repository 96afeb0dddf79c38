"""How much memory a batch of many volumes holds as it goes on, seen from outside its process (Linux)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ppcmi.batch_manifest import MANIFEST
from support.trained_site import TrainedSite

POLL_S = 0.02
MEBIBYTE = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_of_a_batch(
    site: TrainedSite, scan: Path, volumes: int, folder: Path, program: Sequence[object]
) -> list[float]:
    """Segment so many copies of a scan with ``program`` in one run: the largest resident MiB by volume."""
    scans = folder / "scans"
    scans.mkdir()
    for number in range(volumes):
        shutil.copy(scan, scans / f"scan_{number:04}.nii.gz")
    process = site.start(*program, *site.options, "--input", scans, "--output", folder / "out", "--quiet")
    largest = [0.0] * (volumes + 1)
    manifest = folder / "out" / MANIFEST
    while process.poll() is None:
        done = manifest.read_bytes().count(b'"outcome": "done"') if manifest.exists() else 0
        largest[done] = max(largest[done], resident_mib(process.pid))
        time.sleep(POLL_S)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{volumes} done" in out
    return largest


def resident_mib(pid: int) -> float:
    """Resident memory of a process; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MEBIBYTE
    except (OSError, IndexError):
        return 0.0


def peak_mib(pid: int | None) -> float:
    """The most resident memory that a process ever had; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
