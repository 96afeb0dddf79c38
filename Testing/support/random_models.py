"""Models with random weights, registered as if a job had trained them: mapping them shows what a server does."""

from __future__ import annotations

import hashlib

import torch

from ppcmi.klt.inner import InnerLayer
from ppcmi.scales import Profile
from ppcmi_server import tasks
from ppcmi_server.database.schema import Job, Model
from ppcmi_server.services import Services
from ppcmi_server.umn.model import TrainedUmn, build_network
from support.app_server import CODEC, INNER_KEY, TASK
from support.descriptions import describe_umn

MADE = "2026-01-01T00:00:00Z"


def random_umn(seed: int = 1) -> TrainedUmn:
    """A real network for the tests' task and codec."""
    description = describe_umn("default", Profile.COARSE, TASK.slicing.size, (CODEC,))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        umn = TrainedUmn(description, build_network(description))
    generator = torch.Generator().manual_seed(seed)
    for parameter in umn.network.parameters():
        parameter.requires_grad_(False).add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return umn


def add_model(
    services: Services, umn: TrainedUmn, *, number: int = 1, state: str = "active", digest: str | None = None
) -> None:
    """The network as a model of the tests' task.

    :param digest: what the database says of the file, in place of what is true.
    """
    file = services.config.models_folder / f"model-{number}.safetensors"
    umn.save(file)
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()
    with services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        session.add(Job(id=number, task_id=task.id, state="done", config={}, created=MADE))
        session.flush()
        session.add(
            Model(
                task_id=task.id, number=number, job_id=number, state=state, preset="default", profile="coarse",
                mode="two-layer", scope="consortium", codecs={CODEC: InnerLayer(INNER_KEY, TASK.identity).check()},
                config={}, seed=1, code_version="-", file=file.name, file_digest=digest, cases=1, slices=1,
                created=MADE,
            )
        )  # fmt: skip
