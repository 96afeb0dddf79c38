"""Makes Testing/unit/protocol_vectors.json, when the format changes: ``python -m support.protocol_vectors``."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from ppcmi import sealing
from ppcmi.bundle_header import read_header
from ppcmi.channel import open_channel
from ppcmi.cohort_frames import CasePart, CohortHeader, CohortKey, header_bytes, new_file_key
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents
from ppcmi.protection import Protection
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream
from support import independent_client as independent
from support.app_server import CODEC, INNER_KEY, pseudonym

FILE = Path(__file__).parents[1] / "unit" / "protocol_vectors.json"


def vector_latents(vector):
    """Values ``((7 i) mod 64 - 32) / 16`` in order of slice, channel, row, column."""
    made = {}
    for scale, shape in vector["shapes"].items():
        size = int(np.prod(shape)) * vector["slices"]
        made[scale] = (((7 * np.arange(size)) % 64 - 32) / 16).reshape(vector["slices"], *shape)
    return made


def as_latents(arrays):
    return Latents({scale: torch.from_numpy(values).float() for scale, values in arrays.items()})


def make_vectors():
    """The file's content, made anew; nothing in it is random but the seal of the frame's key."""
    site, server = bytes(range(32)), bytes(range(32, 64))
    salt, site_id = bytes(range(16)), "0f1e2d3c4b5a6978"
    link_key = sealing.agree(site, sealing.public_key_of(server), b"ppcmi link|" + site_id.encode() + b"|" + salt)
    return {
        "about": "Test vectors of docs/protocol.md; bytes are hex, bundles and frames base64.",
        "link_key": {
            "site_private_key": site.hex(), "server_private_key": server.hex(),
            "server_public_key": sealing.public_key_of(server).hex(), "site_id": site_id,
            "link_salt": salt.hex(), "link_key": link_key.hex(),
        },
        "bundles": [_bundle_vector(name, link_key) for name in ("f32", "i8", "i4")],
        "cohort_frame": _frame_vector(server, link_key),
    }  # fmt: skip


def _bundle_vector(quantization, link_key):
    vector = {"slices": 2, "shapes": {"s4": [8, 4, 4], "b": [16, 2, 3]}}
    images, layer = as_latents(vector_latents(vector)), InnerLayer(INNER_KEY, "phantom@1")
    channel = open_channel(link_key, "phantom@1", "two-layer")
    protection = Protection(channel, layer, CODEC, Profile.COARSE, Quantization(quantization))
    request = protection.protect({Stream.IMAGE: images}, pseudonym(5), [0, 1])
    masks = layer.apply(images.map(lambda _, values: -values), Stream.MASK)
    header, _ = independent.open_bundle(link_key, INNER_KEY, request, "image")
    return {
        "name": quantization, "task": "phantom@1", "link_key": link_key.hex(), "inner_key": INNER_KEY.hex(), **vector,
        "request": base64.b64encode(request).decode(), "request_header": header,
        "reply": base64.b64encode(channel.seal_reply(masks, read_header(request), 3)).decode(),
    }  # fmt: skip


def _frame_vector(server, link_key):
    key, cohort, sealed = new_file_key(sealing.public_key_of(server), "phantom@1")
    header = header_bytes(
        CohortHeader("phantom@1", CODEC, Profile.COARSE, "two-layer", Quantization.I8, cohort, sealed)
    )
    bundle = base64.b64decode(_bundle_vector("i8", link_key)["request"])
    frame = CohortKey(header, key).make_frame(7, CasePart(pseudonym(5), 0, 1), bundle)
    return {
        "server_private_key": server.hex(), "header": base64.b64encode(header).decode(), "index": 7,
        "frame": base64.b64encode(frame).decode(), "case": pseudonym(5),
        "bundle_sha256": hashlib.sha256(bundle).hexdigest(),
    }  # fmt: skip


if __name__ == "__main__":
    FILE.write_text(json.dumps(make_vectors(), indent=1) + "\n", encoding="utf-8")
