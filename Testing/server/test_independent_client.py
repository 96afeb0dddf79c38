"""docs/protocol.md is enough: a client written from it, which imports nothing of ours, segments with a real server."""

import ast
import base64
import hashlib
import inspect
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppcmi import sealing
from ppcmi.bundle_header import read_header
from ppcmi.channel import open_channel
from ppcmi.cohort_frames import CohortKey
from ppcmi.klt.inner import InnerLayer
from ppcmi.scales import Stream
from ppcmi_server.access import identity
from support import independent_client as independent
from support.app_server import INNER_KEY, TASK, app_server, make_latents, pseudonym
from support.bundle_forgery import take_apart
from support.protocol_vectors import vector_latents
from support.random_models import add_model, random_umn

VECTORS = json.loads((Path(__file__).parents[1] / "unit" / "protocol_vectors.json").read_text())
ALLOWED = {"__future__", "base64", "hmac", "json", "os", "numpy", "requests", "safetensors", "cryptography"}


def test_the_independent_client_imports_nothing_of_ours():
    tree = ast.parse(inspect.getsource(independent))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found <= ALLOWED


def test_it_enrolls_joins_and_maps_a_bundle_and_gets_what_our_own_client_gets(tmp_path):
    with app_server(tmp_path / "server") as server:
        (founder,) = server.add_consortium("Hospital A")
        umn = random_umn()
        add_model(server.services, umn)
        with server.services.database.writing() as session:
            code = identity.add_site(session, "Hospital B")
        client = independent.Client(server.url, code)
        founder.client.invite(TASK.name, client.site_id, b"sealed")
        client.join(TASK.name)
        images = make_latents(5, 3)
        arrays = {scale: values.numpy().astype(np.float64) for scale, values in images.items()}
        masks = client.map(INNER_KEY, TASK.name, arrays, pseudonym(4))
        bundle = founder.bundle(images, case=4)
        reply = founder.client.map_bundle(TASK.name, bundle, 1)
        _, ours = founder.protection().unprotect_reply(reply, read_header(bundle))
    for scale, values in ours.items():
        step = values.abs().max().item() / 127
        np.testing.assert_allclose(masks[scale], values.numpy(), atol=6 * step)
        assert np.corrcoef(masks[scale].ravel(), values.numpy().ravel())[0, 1] > 0.999


def unpacked(text):
    return base64.b64decode(text)


def test_vector_of_the_agreement_on_a_link_key():
    vector = VECTORS["link_key"]
    private, server = bytes.fromhex(vector["site_private_key"]), bytes.fromhex(vector["server_public_key"])
    salt, expected = bytes.fromhex(vector["link_salt"]), bytes.fromhex(vector["link_key"])
    assert independent.link_key_of(private, server, vector["site_id"], salt) == expected
    context = b"ppcmi link|" + vector["site_id"].encode() + b"|" + salt
    assert sealing.agree(private, server, context) == expected
    theirs = bytes.fromhex(vector["server_private_key"])
    assert sealing.agree(theirs, sealing.public_key_of(private), context) == expected


@pytest.mark.parametrize("vector", VECTORS["bundles"], ids=lambda vector: vector["name"])
def test_vectors_of_a_request_and_its_reply_open_to_the_same_latents_with_both_clients(vector):
    link_key, inner_key = (bytes.fromhex(vector[name]) for name in ("link_key", "inner_key"))
    channel, layer = open_channel(link_key, vector["task"], "two-layer"), InnerLayer(inner_key, vector["task"])
    images = vector_latents(vector)
    request, reply = unpacked(vector["request"]), unpacked(vector["reply"])
    header, found = independent.open_bundle(link_key, inner_key, request, "image")
    assert header == vector["request_header"]
    _, streams = channel.open(request)
    tolerance = {"f32": 1e-4, "i8": 0.05, "i4": 2.0}[vector["request_header"]["quantization"]]
    for scale, values in images.items():
        np.testing.assert_allclose(found[scale], values, atol=tolerance)
        opened = layer.invert(streams[Stream.IMAGE], Stream.IMAGE)[scale].numpy()
        np.testing.assert_allclose(opened, values, atol=tolerance)
        np.testing.assert_allclose(opened, found[scale], atol=1e-4)
        assert np.linalg.norm(opened - values) < 0.15 * np.linalg.norm(values)
    answer, masks = independent.open_bundle(link_key, inner_key, reply, "mask")
    assert (answer["in_reply_to"], answer["case"], answer["model"]) == (header["nonce"], header["case"], 3)
    _, ours = channel.open_reply(reply, read_header(request))
    for scale, values in images.items():  # this reply's masks are the images, negated
        np.testing.assert_allclose(masks[scale], -values, atol=2 * tolerance)
        np.testing.assert_allclose(layer.invert(ours, Stream.MASK)[scale], -values, atol=2 * tolerance)


def test_what_the_independent_client_seals_under_the_vectors_nonce_is_the_vector():
    vector = next(vector for vector in VECTORS["bundles"] if vector["request_header"]["quantization"] == "i8")
    keys = (bytes.fromhex(vector[name]) for name in ("link_key", "inner_key"))
    header = vector["request_header"]
    sealed = independent.seal(
        *keys, header["task"], header["codec"], header["profile"], header["case"], vector_latents(vector),
        bytes.fromhex(header["nonce"]),
    )  # fmt: skip
    (ours, tensors), (theirs, expected) = take_apart(sealed), take_apart(unpacked(vector["request"]))
    assert json.loads(ours.pop("__metadata__")["ppcmi"]) == json.loads(theirs.pop("__metadata__")["ppcmi"])
    assert ours == theirs
    one, other = np.frombuffer(tensors[16:], np.int8).astype(int), np.frombuffer(expected[16:], np.int8).astype(int)
    assert np.abs(one - other).max() <= 1, "a value half way between two steps may be rounded either way"


def test_vector_of_a_cohorts_frame():
    vector = VECTORS["cohort_frame"]
    header, frame = unpacked(vector["header"]), unpacked(vector["frame"])
    server = bytes.fromhex(vector["server_private_key"])
    part, bundle = CohortKey.open(header, server).open_frame(vector["index"], frame)
    assert (part.case, part.part, part.parts) == (vector["case"], 0, 1)
    assert hashlib.sha256(bundle).hexdigest() == vector["bundle_sha256"]
    document = json.loads(header)
    context = f"ppcmi cohort|{document['task']}|{document['cohort']}".encode()
    key = independent.open_sealed(server, unpacked(document["file_key"]), context)
    (length,) = struct.unpack("<H", frame[:2])
    plain, nonce = frame[2 : 2 + length], vector["index"].to_bytes(12, "big")
    opened = AESGCM(key).decrypt(nonce, frame[2 + length :], hashlib.sha256(header).digest() + nonce + plain)
    assert opened == bundle
    assert json.loads(plain) == {"case": vector["case"], "part": 0, "parts": 1}
