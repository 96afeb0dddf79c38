"""A private link to a server that is a function: bundles go through every layer, no network in between."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import torch

from ppcmi.bundle_header import read_header
from ppcmi.channel import open_channel
from ppcmi.codec.codec import Codec
from ppcmi.klt.inner import InnerLayer
from ppcmi.pipeline import PrivateLink
from ppcmi.protection import Protection
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream
from ppcmi.task import load_task
from ppcmi.volume import Geometry, Volume

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
LINK_KEY, INNER_KEY = bytes(range(32)), bytes(range(32, 64))


def small_task():
    """The phantom task with slices of 32 x 32."""
    task = load_task(TASK_FILE)
    return dataclasses.replace(task, slicing=dataclasses.replace(task.slicing, size=(32, 32), spacing_mm=None))


def untrained_codec():
    """A codec that encodes and decodes, though not well; the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Codec(small_task(), "autoencoder")


def noise_volume(slices):
    """Noise on an oblique, anisotropic grid; the same at every call."""
    voxels = np.random.default_rng(1).normal(100, 20, (slices, 30, 28)).astype(np.float32)
    affine = np.array([[0, -1.5, 0, 7], [1.4, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    return Volume(voxels, Geometry(voxels.shape, affine))


class HalvingServer:
    """Answers every bundle with half of its latents; what a test overrides, it does wrong."""

    def __init__(self, link_key=LINK_KEY, task="phantom@1", mode="two-layer"):
        self.channel = open_channel(link_key, task, mode)
        self.headers = []
        self.aborted = threading.Event()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def map_bundle(self, task, bundle, model):
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.headers.append(read_header(bundle))
        try:
            return self.answer(bundle, model)
        finally:
            with self.lock:
                self.at_once -= 1

    def answer(self, bundle, model):
        header, streams = self.channel.open(bundle)
        return self.seal(header, streams[Stream.IMAGE].map(lambda _, values: values / 2), model=model)

    def seal(self, header, latents, **changes):
        said = {
            "codec": header.codec,
            "profile": header.profile,
            "quantization": header.quantization,
            "case": header.case,
            "slice_indices": header.slice_indices,
            "inner_check": header.inner_check,
            "in_reply_to": header.nonce.hex(),
        }
        return self.channel.seal({Stream.MASK: latents}, **{**said, **changes})

    def abort(self):
        self.aborted.set()


def link_to(server, codec, *, inner_key=INNER_KEY, mode="two-layer", profile=Profile.COARSE, **changes):
    identity = codec.task.identity
    protection = Protection(
        channel=open_channel(LINK_KEY, identity, mode),
        inner=None if mode == "paper" else InnerLayer(inner_key, identity),
        codec=codec.fingerprint,
        profile=profile,
        quantization=Quantization.F32,
    )
    link = PrivateLink(codec.task, codec, None, protection, server, model=7, slices_per_bundle=3, in_flight=3)
    return dataclasses.replace(link, **changes)
