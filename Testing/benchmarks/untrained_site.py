"""A server process over TLS and one site, with a codec and a model that nobody trained.

How fast they are does not depend on their weights.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ppcmi import consortium
from ppcmi.codec.codec import Codec
from ppcmi.codec.presets import Preset as CodecPreset
from ppcmi.codec.presets import image_channels
from ppcmi.modes import Mode
from ppcmi.pipeline import PrivateLink
from ppcmi.quantization import FOR_MAPPING, Quantization
from ppcmi.scales import Profile
from ppcmi.session import LinkOptions, open_link
from ppcmi.site import SiteProfile
from ppcmi.task import load_task
from ppcmi.task_profile import Scope, TaskProfile
from ppcmi_server import __version__, clock, tasks
from ppcmi_server.config import load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Job, Model
from ppcmi_server.umn.model import Preset as UmnPreset
from ppcmi_server.umn.model import TrainedUmn, build_network
from support.descriptions import describe_umn
from support.loopback import write_certificate
from support.real_server import RealServer, serving


@dataclass(frozen=True)
class System:
    """One way to do it: which networks, what leaves, under which protocol."""

    name: str
    codec: CodecPreset
    network: UmnPreset
    profile: Profile
    mode: Mode
    scope: Scope
    quantization: Quantization

    def umn(self, task_size: tuple[int, int], codec: str = "") -> TrainedUmn:
        """The server's network, untrained."""
        description = describe_umn(self.network, self.profile, task_size, (codec,), image_channels(self.codec))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return TrainedUmn(description, build_network(description))


PUBLISHED = System("paper", "paper", "paper", Profile.PAPER, "paper", "site", Quantization.F32)
OURS = tuple(
    System(str(profile), "minimized", "default", profile, "two-layer", "consortium", FOR_MAPPING)
    for profile in (Profile.COARSE, Profile.FULL, Profile.MINIMAL)
)


@contextmanager
def untrained_link(system: System, task_file: Path, folder: Path, device: torch.device) -> Iterator[PrivateLink]:
    """A site's link to a server process that runs until the context ends."""
    command = [sys.executable, "-m", "ppcmi_server", "init", str(folder / "server")]
    subprocess.run(command, check=True, capture_output=True, env=RealServer(folder / "server").environment)
    RealServer(folder / "server").command("task", "add", str(task_file))
    certificate = str(write_certificate(folder / "server.pem"))
    options = ("--tls-cert", certificate, "--tls-key", certificate, "--device", str(device))
    with serving(folder / "server", *options) as server:
        code = server.add_site("Hospital A")
        site = SiteProfile.enrol(folder / "site", server.url, code, ca_file=Path(certificate))
        client = site.client()
        part = consortium.create(site, client, load_task(task_file).name, system.scope, system.mode)
        codec = _provide_codec(system, part)
        if system.scope == "consortium":
            consortium.publish_codec(client, part, codec)
        _provide_model(system, part, codec.fingerprint, folder / "server")
        link = open_link(site, part, client, LinkOptions(quantization=system.quantization, device=device))
        try:
            yield link
        finally:
            client.close()


def _provide_codec(system: System, part: TaskProfile) -> Codec:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        codec = Codec(part.task, system.codec)
    codec.save(part.codec_path)
    return codec


def _provide_model(system: System, part: TaskProfile, codec: str, folder: Path) -> None:
    """An active model as a training leaves it, but for the training."""
    config = load_config(folder)
    file = config.models_folder / "untrained.safetensors"
    system.umn(part.task.slicing.size, codec).save(file)
    database = Database(config)
    with database.writing() as session:
        task = tasks.find_task(session, part.task.name)
        job = Job(task_id=task.id, state="done", config={}, created=clock.now())
        session.add(job)
        session.flush()
        session.add(
            Model(
                task_id=task.id, number=1, job_id=job.id, state="active", preset=system.network,
                profile=system.profile.value, mode=system.mode, scope=system.scope,
                codecs={codec: consortium.inner_check_of(part)}, config={}, seed=1, code_version=__version__,
                file=file.name, file_digest=hashlib.sha256(file.read_bytes()).hexdigest(), cases=0, slices=0,
                created=clock.now(),
            )
        )  # fmt: skip
    database.close()
