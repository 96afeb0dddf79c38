"""Measured numbers: docs/results/NAME.json holds them, docs/RESULTS.md shows them. Benchmarks write both."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"


@dataclass(frozen=True)
class Measurement:
    """One number. ``target`` is None where none was set; ``holds`` then is None as well."""

    name: str
    target: str | None
    measured: float
    unit: str
    holds: bool | None
    command: str
    commit: str
    machine: str
    date: str


def measurement(
    name: str, measured: float, unit: str, command: str, *, at_least: float | None = None, at_most: float | None = None
) -> Measurement:
    """A number measured here and now, held against a bound if there is one."""
    target, holds = None, None
    if at_least is not None:
        target, holds = f">= {at_least:g}", measured >= at_least
    elif at_most is not None:
        target, holds = f"<= {at_most:g}", measured <= at_most
    date = datetime.now(UTC).date().isoformat()
    return Measurement(name, target, round(measured, 4), unit, holds, command, commit(), machine(), date)


def merge(name: str, measurements: Sequence[Measurement]) -> None:
    """Write numbers into docs/results/NAME.json; a number measured before is replaced by the new one."""
    path = RESULTS / f"{name}.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    new = {m.name: asdict(m) for m in measurements}
    merged = [new.pop(old["name"], old) for old in kept] + list(new.values())
    RESULTS.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(merged, indent=1) + "\n")
    temporary.replace(path)


def commit() -> str:
    """The commit that is measured, with a + if files that count were changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "PPCMISegment", "PPCMIServer", "Testing/benchmarks")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """Processor and threads; never the machine's name."""
    bfloat16 = "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"{platform.machine()} {capability} CPU, {threads} thread(s), {bfloat16}"
