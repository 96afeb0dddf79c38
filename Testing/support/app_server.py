"""The real application on a real socket in this process, with sites that speak the protocol by ``ServerClient``."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import requests
import torch
import uvicorn
from fastapi import FastAPI

from ppcmi import sealing
from ppcmi.channel import open_channel
from ppcmi.client import Patience, ServerClient, decode_binary
from ppcmi.cohort_file import CohortReader, CohortWriter
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents
from ppcmi.protection import Protection
from ppcmi.quantization import Quantization
from ppcmi.scales import SCALE_CHANNELS, Profile, Stream, scale_shapes
from ppcmi_server import tasks
from ppcmi_server.access import identity
from ppcmi_server.app import create_app
from ppcmi_server.config import SETTINGS_NAME, create_folder, settings_text
from ppcmi_server.mapping.mapper import Mapper
from ppcmi_server.operation.connections import ServingConfig
from ppcmi_server.services import Services, open_services
from ppcmi_server.settings import Limits
from ppcmi_server.training import jobs
from support.codecs import tiny_task
from support.storages import storage_settings

TASK = tiny_task()
CODEC = "c0dec" + "0" * 27
INNER_KEY = bytes(range(32))
IMPATIENT = Patience(connect_s=5, read_s=30, attempts=1)
START_S = 30


def make_latents(
    slices: int, seed: int, profile: Profile = Profile.COARSE, channels: Mapping[str, int] = SCALE_CHANNELS
) -> Latents:
    """Random latents of the task's shapes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = scale_shapes(TASK.slicing.size, profile.scales, channels)
    return Latents({scale: torch.randn(slices, *shape, generator=generator) for scale, shape in shapes.items()})


def pseudonym(number: int) -> str:
    return f"{number:032x}"


class SiteAtServer:
    """An enrolled site: its keys, its client, and what it sends."""

    def __init__(self, url: str, code: str) -> None:
        self.private_key = sealing.new_private_key()
        answer = ServerClient(url, patience=IMPATIENT).enrol(code, sealing.public_key_of(self.private_key))
        self.site_id, self.name, self.token = answer["site_id"], answer["site_name"], answer["token"]
        self.server_public_key = decode_binary(answer["server_public_key"])
        context = b"ppcmi link|" + self.site_id.encode() + b"|" + decode_binary(answer["link_salt"])
        self.link_key = sealing.agree(self.private_key, self.server_public_key, context=context)
        self.url = url
        self.client = ServerClient(url, self.token, patience=IMPATIENT)

    def protection(self, inner_key: bytes | None = INNER_KEY, **changes: object) -> Protection:
        """How latents leave; without an inner key it is mode ``paper``."""
        fields: dict[str, object] = {
            "channel": open_channel(self.link_key, TASK.identity, "paper" if inner_key is None else "two-layer"),
            "inner": None if inner_key is None else InnerLayer(inner_key, TASK.identity),
            "codec": CODEC,
            "profile": Profile.COARSE,
            "quantization": Quantization.F32,
        }
        return Protection(**(fields | changes))

    def bundle(self, images: Latents, case: int = 1, **changes: object) -> bytes:
        """A bundle to be mapped."""
        return self.protection(**changes).protect({Stream.IMAGE: images}, pseudonym(case), range(len(images)))

    def write_cohort(
        self,
        path: Path,
        cases: Sequence[int],
        slices: int = 4,
        image_channels: Sequence[Mapping[str, int]] = (SCALE_CHANNELS,),
        **changes: object,
    ) -> CohortReader:
        """A cohort file; each case has two bundles, the second an augmented variant of the first.

        :param image_channels: of the image latents of the cases in turn.
        """
        protection = self.protection(**changes)
        with CohortWriter(
            path,
            server_public_key=self.server_public_key,
            task=TASK.identity,
            codec=protection.codec,
            profile=protection.profile,
            mode="paper" if protection.inner is None else "two-layer",
            quantization=protection.quantization,
        ) as writer:
            for case, channels in zip(cases, cycle(image_channels), strict=False):
                bundles = [
                    protection.protect(
                        {
                            Stream.IMAGE: make_latents(slices, 10 * case, protection.profile, channels),
                            Stream.MASK: make_latents(slices, 10 * case + 1, protection.profile),
                        },
                        pseudonym(case),
                        range(slices),
                        variant,
                    )
                    for variant in range(2)
                ]
                writer.add_case(pseudonym(case), bundles)
        return CohortReader(path)

    def upload(self, cohort: CohortReader) -> str:
        """Announce, send and commit; the cohort's id."""
        cohort_id = self.client.create_cohort(TASK.name, cohort.header_bytes)
        for index, frame in cohort.frames():
            self.client.put_frame(cohort_id, index, frame.data)
        self.client.commit_cohort(cohort_id, cohort.end.frames, cohort.end.digest)
        return cohort_id

    def call(self, method: str, path: str, **options: object) -> requests.Response:
        """A bare request with the site's token."""
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=30, **options)


@dataclasses.dataclass(frozen=True)
class AppServer:
    """A served application."""

    services: Services
    url: str
    app: FastAPI

    def stop_jobs(self) -> None:
        """End every training that waits, runs or is paused."""
        with self.services.database.writing() as session:
            for job in jobs.unfinished_jobs(session):
                jobs.request_stop(session, job.id)

    @property
    def mapper(self) -> Mapper:
        return self.app.state.mapper

    def add_site(self, name: str) -> SiteAtServer:
        with self.services.database.writing() as session:
            code = identity.add_site(session, name)
        return SiteAtServer(self.url, code)

    def add_consortium(
        self, *names: str, scope: str = "consortium", inner_key: bytes | None = INNER_KEY
    ) -> list[SiteAtServer]:
        """Enrolled sites that all take part in the task; the first founds and publishes a codec."""
        sites = [self.add_site(name) for name in names]
        founder = sites[0]
        mode = "paper" if inner_key is None else "two-layer"
        check = None if inner_key is None else InnerLayer(inner_key, TASK.identity).check()
        founder.client.create_consortium(TASK.name, scope, mode, check)
        if scope == "consortium":
            founder.client.put_codec(TASK.name, b"encrypted codec", CODEC)
        for site in sites[1:]:
            founder.client.invite(TASK.name, site.site_id, b"sealed")
            site.client.join(TASK.name)
        return sites


@contextmanager
def app_server(folder: Path, sections: Mapping[str, Any] | None = None, **limits: float) -> Iterator[AppServer]:
    """Serve the task from a new server folder until the context ends.

    :param sections: whole sections of the settings, by name, beside the limits.
    """
    config = create_folder(folder).on_device("cpu")
    untrained = dataclasses.replace(config.training, workers=0)  # tests run the jobs that they queue
    config = dataclasses.replace(
        config, limits=Limits(**limits), **{"storage": storage_settings(), "training": untrained, **(sections or {})}
    )
    (folder / SETTINGS_NAME).write_text(settings_text(config), encoding="utf-8")  # what its workers read
    services = open_services(config)
    with services.database.writing() as session:
        tasks.add_task(session, TASK)
    app = create_app(config, services)
    serving = ServingConfig(
        app, config.serve, config.limits.body_seconds, port=0, log_config=None, timeout_graceful_shutdown=2
    )
    with running(serving) as (host, port):
        yield AppServer(services, f"http://{host}:{port}", app)


@contextmanager
def running(serving: ServingConfig) -> Iterator[tuple[str, int]]:
    """Serve in a thread of this process, at the address that the context gives."""
    server = uvicorn.Server(serving)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started:
        assert time.monotonic() < deadline, "the application did not start"
        assert thread.is_alive(), "the application ended"
        time.sleep(0.01)
    (listener,) = server.servers[0].sockets
    try:
        yield "127.0.0.1", listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
