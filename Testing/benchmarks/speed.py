"""How fast, and how many bytes: our system beside the published one, in one run on one machine: ``make bench-speed``.

Networks with random weights, random slices of 256 x 256: neither speed nor size depends on what is in them. Each
number of ours stands beside the published configuration (its codec, its mapping network, its protocol, float32
bundles), measured in turns with it: as milliseconds and, since machines differ, as a ratio. End to end is the product's
own path: a site in this process, ``ppcmi-server`` in another, HTTPS on loopback between them. On a GPU every
timing waits for it; the published networks run in float32 there too, as they were published, while ours are in bfloat16
where the device has it. TensorFloat-32 and bfloat16 have a table of their own, and ratios at the same precision stand
beside those as used. Tables of what is not measured on the CPU say so in their titles, and have targets of their own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks.results import MEGABYTE, REPOSITORY, SEPARATOR, Measurement, here_and_now, measurement, merge
from benchmarks.untrained_site import OURS, PUBLISHED, System, untrained_link
from ppcmi.bundle_header import read_header
from ppcmi.device import choose_device, has_bfloat16
from ppcmi.latents import Latents
from ppcmi.pipeline import PrivateLink, Segmentation, run, segment
from ppcmi.scales import Stream
from ppcmi.task import load_task
from ppcmi.volume import Geometry, Volume
from ppcmi_server.umn.model import TrainedUmn

TASK = REPOSITORY / "Resources" / "Tasks" / "fetal-head-us.json"
COMMAND = "make bench-speed"
FULL_BATCH, VOLUME_SLICES = 32, 128
STAGES = ("encode and protect", "map, in the server's whole path", "unprotect and decode")
"""What a slice goes through, one after the other."""

GPU_SLICE_MS, GPU_VOLUME_S = 3.0, 0.5
"""Targets of one slice and of a volume, end to end; asked of a GPU only."""

CPU_MAPPING_RATIO, CPU_VOLUME_RATIO, CPU_OUTSIDE = 10.0, 8.0, 0.15
"""Targets of ratios to the published configuration and of the share of time outside the networks; of the CPU only."""

DEVICES = {"cpu": "", "cuda": ", GPU"}
"""Behind the titles of tables of a kind of device; another kind's own name is behind those of its tables."""

AS_USED = "as used"
SAME_PRECISION = "mapping network, both in bfloat16"
OUTSIDE = "time outside the networks"

Key = TypeVar("Key", bound=Hashable)
Seconds = Mapping[str, Sequence[float]]
"""What each piece of work took, round by round."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write docs/results/speed.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--rounds", type=int, default=5, help="of every timing; the median counts (default: 5)")
    parser.add_argument("--slices", type=int, default=VOLUME_SLICES, help="of the volume (default: 128)")
    options = parser.parse_args(arguments)
    found = measure_speed(choose_device(options.device), options.rounds, options.slices)
    for number in found:
        print(f"{number.name}: {number.measured:g} {number.unit}", flush=True)
    merge("speed", found)
    return 0


def measure_speed(device: torch.device, rounds: int, slices: int, command: str = COMMAND) -> list[Measurement]:
    """Every number; servers of all systems run meanwhile, and idle."""
    torch.backends.cudnn.allow_tf32 = False
    systems = (PUBLISHED, *OURS)
    volume, one_slice = _volume(slices), _volume(1)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ppcmi-bench-")))
        links: dict[System, PrivateLink] = {}
        for system in systems:
            (folder := scratch / system.name).mkdir()
            links[system] = stack.enter_context(untrained_link(system, TASK, folder, device))
        parts = {
            batch: _in_turns({s: _parts(s, links[s], batch, device) for s in systems}, rounds)
            for batch in (1, FULL_BATCH)
        }
        whole = _in_turns({s: _whole(s, links[s], volume, device) for s in systems}, rounds)
        single = _in_turns({s: {"end to end": partial(_segment, one_slice, links[s])} for s in systems}, rounds)
        sent = {s: _bytes_a_slice(_segment(volume, links[s])) for s in systems}
    table = _Numbers(device, command)
    for batch, by_system in parts.items():
        table.add_parts(batch, by_system)
        table.add_precisions(batch, rounds)
    table.add_whole(whole, sent, slices)
    table.add_one_slice(single)
    return table.found


def _parts(system: System, link: PrivateLink, batch: int, device: torch.device) -> Mapping[str, Callable[[], object]]:
    """What a slice goes through, each with its input ready: at the site, at the server, at the site again."""
    slices = np.random.default_rng(0).random((batch, link.task.slicing.channels, *link.task.slicing.size), np.float32)
    umn = system.umn(link.task.slicing.size).to(device)
    latents = link.encode(slices)
    bundle = link.protection.protect({Stream.IMAGE: latents}, "0" * 32, range(batch))
    header = read_header(bundle)
    _, opened = link.protection.channel.open(bundle)
    images = opened[Stream.IMAGE]
    masks = umn.map(images, "")
    reply = link.protection.channel.seal_reply(masks.to("cpu"), header, link.model)

    def answer() -> object:
        _, streams = link.protection.channel.open(bundle)
        return link.protection.channel.seal_reply(umn.map(streams[Stream.IMAGE], "").to("cpu"), header, link.model)

    def decode() -> object:
        return link.decode(link.protection.unprotect_reply(reply, header)[1], slices)

    return {
        "encode and protect": lambda: link.protection.protect(
            {Stream.IMAGE: link.encode(slices)}, "0" * 32, range(batch)
        ),
        "map, in the server's whole path": answer,
        "unprotect and decode": decode,
        "networks": lambda: _networks(link, umn, slices, images, masks),
        "mapping network": lambda: _waited(umn.map(images, "")),
    }


def _whole(
    system: System, link: PrivateLink, volume: Volume, device: torch.device
) -> Mapping[str, Callable[[], object]]:
    """A volume end to end, and in turns with it what the networks alone take for a batch."""
    networks = _parts(system, link, FULL_BATCH, device)["networks"]
    return {"end to end": lambda: _segment(volume, link), "networks": networks}


def _networks(link: PrivateLink, umn: TrainedUmn, slices: np.ndarray, images: Latents, masks: Latents) -> None:
    """Encoder, mapping network and decoder, and nothing between them."""
    _waited(link.encode(slices))
    _waited(umn.map(images, ""))
    link.decode(masks, slices)


def _waited(latents: Latents) -> Latents:
    """The same, once it is really there: a GPU goes on by itself."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return latents


def _in_turns(work: Mapping[Key, Mapping[str, Callable[[], object]]], rounds: int) -> dict[Key, dict[str, list[float]]]:
    """Seconds of each piece of work in each round, the systems one after the other; a round before them warms up."""
    taken: dict[Key, dict[str, list[float]]] = {s: {name: [] for name in pieces} for s, pieces in work.items()}
    for _ in range(rounds + 1):
        for system, pieces in work.items():
            for name, piece in pieces.items():
                start = time.perf_counter()
                piece()
                taken[system][name].append(time.perf_counter() - start)
    return {s: {name: t[1:] for name, t in pieces.items()} for s, pieces in taken.items()}


def _medians(taken: Seconds) -> dict[str, float]:
    return {name: statistics.median(rounds) for name, rounds in taken.items()}


def _segment(volume: Volume, link: PrivateLink) -> Segmentation:
    return run(segment(volume, link))


def _bytes_a_slice(result: Segmentation) -> float:
    return (result.progress.bytes_sent + result.progress.bytes_received) / result.progress.total


def _volume(slices: int) -> Volume:
    """Random voxels in the task's own slices: nothing is resampled."""
    voxels = np.random.default_rng(0).integers(0, 255, (slices, *load_task(TASK).slicing.size), dtype=np.uint8)
    return Volume(voxels, Geometry(voxels.shape, np.eye(4)))


@contextmanager
def _tensor_float() -> Iterator[None]:
    """Matrix products and convolutions in TensorFloat-32, where there is a GPU that has it."""
    before = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision(before)


def _map_in(precision: Callable[[], AbstractContextManager[object]], umn: TrainedUmn, images: Latents) -> None:
    with precision():
        _waited(umn.map(images, ""))


def _precisions(device: torch.device) -> Mapping[str, Callable[[], AbstractContextManager[object]]]:
    found: dict[str, Callable[[], AbstractContextManager[object]]] = {"float32": nullcontext}
    if device.type == "cuda":
        found["TensorFloat-32"] = _tensor_float
    return found | {"bfloat16": lambda: torch.autocast(device.type, torch.bfloat16)}


class _Numbers:
    """The measurements of one run as rows of tables."""

    def __init__(self, device: torch.device, command: str) -> None:
        self.device, self.command, self.origin = device, command, here_and_now(device)
        self.found: list[Measurement] = []

    def add(self, table: str, row: str, column: str, value: float, unit: str, **bound: float) -> None:
        """A number; its table says which device it is of, unless it is the CPU."""
        kind = self.device.type
        name = SEPARATOR.join((table + DEVICES.get(kind, f", {kind}"), row, column))
        self.found.append(measurement(name, value, unit, command=self.command, origin=self.origin, **bound))

    def on(self, device: str, **bound: float) -> dict[str, float]:
        """A bound that is asked of one kind of device only."""
        return bound if self.device.type == device else {}

    def add_parts(self, batch: int, by_system: Mapping[System, Seconds]) -> None:
        """Every stage by itself, of a slice."""
        milliseconds = stage_table(batch)
        medians = {system: _medians(taken) for system, taken in by_system.items()}
        for system, seconds in medians.items():
            for stage in STAGES:
                self.add(milliseconds, system.name, stage, 1000 * seconds[stage] / batch, "ms")
            total = 1000 * sum(seconds[stage] for stage in STAGES) / batch
            self.add(milliseconds, system.name, "in total", total, "ms")
            if system is not PUBLISHED:
                for name, taken in seconds.items():
                    asked = name == "mapping network" and batch == FULL_BATCH
                    least = self.on("cpu", at_least=CPU_MAPPING_RATIO) if asked else {}
                    self.add(ratio_table(batch), system.name, name, medians[PUBLISHED][name] / taken, "x", **least)

    def add_precisions(self, batch: int, rounds: int) -> None:
        """The published mapping network in other precisions than its own, and ours as it is used.

        Where ours is used in bfloat16, a ratio of both in bfloat16 stands beside those as used.
        """
        size = load_task(TASK).slicing.size
        table = f"ms a slice of the mapping network, 256 x 256, batch {batch}"
        work: dict[tuple[System, str], Mapping[str, Callable[[], object]]] = {}
        for system in (PUBLISHED, *OURS):
            umn = system.umn(size).to(self.device)
            images = Latents({s: torch.randn(batch, *shape) for s, shape in umn.description.images.items()})
            images = images.to(self.device)
            as_used: Mapping[str, Callable[[], AbstractContextManager[object]]] = {AS_USED: nullcontext}
            for name, precision in (_precisions(self.device) if system is PUBLISHED else as_used).items():
                work[system, name] = {"map": partial(_map_in, precision, umn, images)}
        milliseconds = {
            key: 1000 * statistics.median(taken["map"]) / batch for key, taken in _in_turns(work, rounds).items()
        }
        for (system, name), taken in milliseconds.items():
            self.add(table, system.name, name, taken, "ms")
        if has_bfloat16(self.device):
            for system in OURS:
                ratio = milliseconds[PUBLISHED, "bfloat16"] / milliseconds[system, AS_USED]
                self.add(ratio_table(batch), system.name, SAME_PRECISION, ratio, "x")

    def add_whole(
        self,
        taken: Mapping[System, Seconds],
        sent: Mapping[System, float],
        slices: int,
    ) -> None:
        """A volume end to end. What it takes longer than its networks do one after the other is time outside them."""
        table = f"a volume of {slices} slices of 256 x 256, server and HTTPS on loopback"
        medians = {system: statistics.median(seconds["end to end"]) for system, seconds in taken.items()}
        for system in (PUBLISHED, *OURS):
            default = system.name == "coarse"
            self.add(table, system.name, "ms a slice", 1000 * medians[system] / slices, "ms")
            asked = self.on("cuda", at_most=GPU_VOLUME_S) if default and slices == VOLUME_SLICES else {}
            self.add(table, system.name, "from the click to the segmentation", medians[system], "s", **asked)
            shares = outside_networks(taken[system], slices)
            asked = self.on("cpu", at_most=CPU_OUTSIDE) if default else {}
            self.add(table, system.name, OUTSIDE, statistics.median(shares), "share", **asked)
            self.add(table, system.name, f"{OUTSIDE}, lowest round", min(shares), "share")
            self.add(table, system.name, f"{OUTSIDE}, highest round", max(shares), "share")
            asked = {"at_most": 0.05} if default else {}
            self.add(table, system.name, "MB a slice", sent[system] / MEGABYTE, "MB", **asked)
            if system is not PUBLISHED:
                asked = self.on("cpu", at_least=CPU_VOLUME_RATIO) if default else {}
                ratio = medians[PUBLISHED] / medians[system]
                self.add(table, system.name, "times as fast as published", ratio, "x", **asked)

    def add_one_slice(self, taken: Mapping[System, Seconds]) -> None:
        """One slice by the same path as a volume: the client, the server's process, loopback between them."""
        table = "one slice of 256 x 256, server and HTTPS on loopback"
        medians = {system: 1000 * statistics.median(seconds["end to end"]) for system, seconds in taken.items()}
        for system in (PUBLISHED, *OURS):
            asked = self.on("cuda", at_most=GPU_SLICE_MS) if system.name == "coarse" else {}
            self.add(table, system.name, "from the click to the segmentation", medians[system], "ms", **asked)
            if system is not PUBLISHED:
                ratio = medians[PUBLISHED] / medians[system]
                self.add(table, system.name, "times as fast as published", ratio, "x")


def outside_networks(taken: Seconds, slices: int) -> list[float]:
    """The share of a volume's time outside its networks, in each round.

    It is below 0 where the networks, one after the other, take longer than the whole, in which site and server work at
    the same time.
    """
    return [
        1 - networks / FULL_BATCH / (end_to_end / slices)
        for networks, end_to_end in zip(taken["networks"], taken["end to end"], strict=True)
    ]


def stage_table(batch: int) -> str:
    """Title of the table of stages, on the CPU."""
    return f"ms a slice, 256 x 256, batch {batch}"


def ratio_table(batch: int) -> str:
    """Title of the table of ratios, on the CPU."""
    return f"times as fast as the published configuration, 256 x 256, batch {batch}"


if __name__ == "__main__":
    sys.exit(main())
