"""What reading costs, and what becomes of bad files: ``make bench-imaging``, numbers in docs/results/imaging.json.

No data are needed: the CT and the bad files are made for the measurement. ``python -m benchmarks.imaging NAME...``
measures only those named.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK

from benchmarks.bad_inputs import bad_inputs
from benchmarks.results import REPOSITORY, SEPARATOR, Measurement, here_and_now, measure, measurement
from ppcmi.reading import read_image
from ppcmi.slicing import VolumeSlices
from ppcmi.sources import find_sources
from ppcmi.task import Task, Window, load_task
from ppcmi.volume import Geometry, Volume
from support.dicom import write_series

COMMAND = "make bench-imaging"
SHAPE, SPACING_MM = (300, 512, 512), (0.7, 0.7, 1.0)
ROUNDS = 7
BATCH = 32
"""Slices at once, as the pipeline takes them."""


def reading() -> list[Measurement]:
    """A CT series from its folder to its last slice, beside SimpleITK's own read of the same files, in turns."""
    with tempfile.TemporaryDirectory(prefix="ppcmi-bench-") as scratch:
        folder = Path(scratch)
        write_series(_ct(), folder)
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(scratch)
        contenders = {
            "whole": lambda: read_and_slice(folder),
            "with its search for the files": lambda: _itk(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(scratch)),
            "of files that are known": lambda: _itk(names),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS + 1):  # the first fills the file cache
            for name, work in contenders.items():
                gc.collect()
                start = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - start)
        peak = _peak_bytes(folder) / (np.prod(SHAPE) * np.dtype(np.int16).itemsize)
    own, searching, known = (statistics.median(taken[1:]) for taken in seconds.values())
    title, origin = "reading and slicing a CT of 512 x 512 x 300 (DICOM, not compressed)", here_and_now()

    def row(column: str, value: float, unit: str, at_most: float | None) -> Measurement:
        name = SEPARATOR.join((title, column))
        return measurement(name, value, unit, command=COMMAND, origin=origin, at_most=at_most)

    return [
        row("time, of SimpleITK's own read with its search for the files", own / searching, "x", 1.3),
        row("time, of SimpleITK's own read of files that are known", own / known, "x", 1.3),
        row("peak memory, of the volume's", peak, "x", 3.0),
    ]


MEASURED: Mapping[str, Callable[[], list[Measurement]]] = {"reading": reading, "bad-inputs": bad_inputs}
"""What can be measured, by the name to ask for it."""


def ct_task() -> Task:
    """A task as of an abdominal CT: a window, slices of half the size."""
    task = load_task(REPOSITORY / "Resources" / "Tasks" / "phantom.json")
    slicing = replace(task.slicing, axis="axial", size=(256, 256), spacing_mm=(1.4, 1.4), neighbors=1)
    return replace(task, intensity=Window(-160, 240), slicing=slicing)


def _ct() -> Volume:
    voxels = np.random.default_rng(0).integers(-1024, 3072, SHAPE, dtype=np.int16)
    return Volume(voxels, Geometry(SHAPE, np.diag([*SPACING_MM, 1.0])))


def read_and_slice(folder: Path) -> None:
    """From a folder of DICOM files to the last slice."""
    (source,) = find_sources(folder).images
    slices = VolumeSlices(read_image(source).volume, ct_task())
    for start in range(0, len(slices), BATCH):
        slices[start : start + BATCH]


def _itk(names: Sequence[str]) -> None:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(names)
    reader.Execute()


def _peak_bytes(folder: Path) -> int:
    """What a process of its own holds at most beyond what its libraries took, while it reads and slices (Linux)."""
    program = (
        "import sys; from pathlib import Path; from benchmarks import imaging; imaging.ct_task()\n"
        "def held(key):\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))\n"
        "before = held('VmRSS'); imaging.read_and_slice(Path(sys.argv[1])); print(held('VmHWM') - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    return int(done.stdout)


if __name__ == "__main__":
    sys.exit(measure("imaging", MEASURED))
