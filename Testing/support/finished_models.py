"""A model as a training leaves one, as far as its row and its file go; the file holds no network."""

from __future__ import annotations

import hashlib
import os

from ppcmi_server.database.schema import Job, Model
from ppcmi_server.services import Services


def add_model(services: Services) -> bytes:
    """Model 1 of task 1, made by job 1; what is in its file."""
    file = services.config.models_folder / "job-1.safetensors"
    file.write_bytes(os.urandom(1000))
    with services.database.writing() as session:
        config = {"epochs": 1}
        session.add(Job(id=1, task_id=1, state="done", config=config, created="2026-01-01T00:00:00Z"))
        session.flush()
        session.add(
            Model(
                task_id=1, number=1, job_id=1, state="ready", preset="default", profile="coarse", mode="two-layer",
                scope="consortium", codecs={}, config=config, seed=1, code_version="test", file=file.name,
                file_digest=hashlib.sha256(file.read_bytes()).hexdigest(), cases=1, slices=4,
                created="2026-01-01T00:00:00Z",
            )
        )  # fmt: skip
    return file.read_bytes()
