"""What a long benchmark has finished, kept as it is finished, so that a run that was cut off goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.federation import Member, PlainLatents, Site, train_together
from benchmarks.results import code, here_and_now
from ppcmi.codec.codec import Codec
from ppcmi.codec.minimization import minimize
from ppcmi.codec.refinement import RefinementConfig, SiteDecoder, refine_local_network
from ppcmi.codec.training import CodecTrainingConfig, train_codec
from ppcmi.files import write_atomically
from ppcmi.fitting import FitConfig, FitReport
from ppcmi.task import Task
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.model import TrainedUmn
from ppcmi_server.umn.training import EpochReport, KeepsStates, Watching

Row = dict[str, Any]


class Observer(KeepsStates, Protocol):
    """Gets the state after each epoch of a training, and its reports."""

    @property
    def watching(self) -> Watching:
        """Who is told of the epochs."""


class KeptRows:
    """Rows of a table by name, each with the seconds it took and where it was measured, in one JSON file.

    A row counts only if it was measured by the present code with the present budget. Others stay in the file until they
    are measured anew.

    :param budget: what was trained, in words, where it can differ with the same code.
    """

    def __init__(self, file: Path, device: torch.device | None = None, budget: str = "") -> None:
        self.file = file
        self.origin = asdict(here_and_now(device))
        self.code, self.budget = code(), budget
        self._all: dict[str, Row] = json.loads(file.read_text()) if file.exists() else {}

    @property
    def rows(self) -> dict[str, Row]:
        """The rows that count."""
        return {name: row for name, row in self._all.items() if self._counts(row)}

    def _counts(self, row: Row) -> bool:
        return (row.get("code"), row.get("budget")) == (self.code, self.budget)

    def row(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Row:
        """The row, measured now unless it was measured before."""
        if name not in self._all or not self._counts(self._all[name]):
            started = time.monotonic()
            row = {**measure(), "seconds": round(time.monotonic() - started, 1), **self.origin}
            self._all[name] = {**row, "code": self.code, "budget": self.budget}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(self._all, indent=1).encode())
        return self._all[name]


class KeptNetworks:
    """Networks trained once and kept in a folder.

    :param device: where they are trained and used.
    """

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        self.folder = folder
        self.device = device or torch.device("cpu")

    def codec(self, name: str, founder: Site, task: Task, config: CodecTrainingConfig) -> Codec:
        """The codec that ``founder`` makes, judged on its validation cases if it has any."""
        kept = self._file(f"{name}-codec-{founder.name}")
        if not kept.exists():
            held_out = founder.validation
            train_codec(founder.train, task, config, held_out=held_out, device=self.device, report=show).save(kept)
        return Codec.load(kept).to(self.device)

    def minimized(self, autoencoder: Codec, founder: Site, config: FitConfig) -> Codec:
        """The minimized codec that ``founder`` makes of a trained one."""
        kept = self._file(f"minimized-codec-{founder.name}")
        if not kept.exists():
            usual, cases = CodecTrainingConfig(), founder.train
            minimize(
                autoencoder, cases, cases.slices, config, usual.adversary_weight, seed=usual.seed, report=show
            ).save(kept)
        return Codec.load(kept).to(self.device)

    def decoder(self, name: str, codec: Codec, site: Site, config: RefinementConfig) -> SiteDecoder:
        """The site's own decoder, refined on its training cases."""
        kept = self._file(f"{name}-{site.name}-{codec.fingerprint}")
        if not kept.exists():
            refine_local_network(codec, site.train, config, report=show).save(kept)
        return SiteDecoder.load(kept, codec)

    def decoders(
        self, name: str, codec: Codec, members: Sequence[str], learn: Callable[[], dict[str, SiteDecoder]]
    ) -> dict[str, SiteDecoder]:
        """The decoders of ``members`` that ``learn`` trains together."""
        files = {member: self._file(f"{name}-{member}-{codec.fingerprint}") for member in members}
        if not all(file.exists() for file in files.values()):
            for member, decoder in learn().items():
                decoder.save(files[member])
        return {member: SiteDecoder.load(file, codec) for member, file in files.items()}

    def umn(
        self,
        name: str,
        members: Sequence[Member],
        plains: Sequence[PlainLatents],
        config: UmnConfig,
        observer: Observer | None = None,
    ) -> TrainedUmn:
        """The server's network, trained on what all members export.

        :param observer: follows the training, if it is trained now.
        """
        kept = self._file(f"umn-{name}")
        if not kept.exists():
            watching = Watching(report=show_umn) if observer is None else observer.watching
            train_together(members, plains, config, watching=watching, checkpoints=observer, device=self.device).save(
                kept
            )
        return TrainedUmn.load(kept).to(self.device)

    def _file(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name.replace(' ', '-').replace(',', '')}.safetensors"


def show(report: FitReport) -> None:
    """A line for each epoch at a site."""
    if report.share < 1:
        return
    score = "" if report.score is None else f" score {report.score:.4f}"
    print(
        f"  {report.stage} {report.epoch}/{report.epochs} loss {report.loss:.4f}{score} {report.seconds:.0f} s",
        flush=True,
    )


def show_umn(report: EpochReport) -> None:
    """A line for each epoch at the server."""
    print(f"  UMN {report.epoch}/{report.epochs} loss {report.train_loss:.4f} {report.seconds:.0f} s", flush=True)
