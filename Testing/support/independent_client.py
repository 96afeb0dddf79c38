"""A client of the protocol written from docs/protocol.md alone: it imports nothing of PPCMI."""

from __future__ import annotations

import base64
import hmac
import json
import os

import numpy as np
import requests
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def fields(*parts):
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "little") + part for part in encoded)


def hkdf(key, salt, info):
    return HKDF(SHA256(), 32, salt=salt, info=info).derive(key)


def link_key_of(private_key, server_public_key, site_id, link_salt):
    own = X25519PrivateKey.from_private_bytes(private_key)
    shared = own.exchange(X25519PublicKey.from_public_bytes(server_public_key))
    both = b"".join(sorted([own.public_key().public_bytes_raw(), server_public_key]))
    return hkdf(shared, both, fields("ppcmi-agree/1", b"ppcmi link|" + site_id.encode() + b"|" + link_salt))


class Stream:
    """The bytes of a key for one purpose."""

    def __init__(self, key, task, stream, scale, nonce, purpose, number=0):
        info = fields("ppcmi-klt/1", task, stream, scale, nonce, purpose, number)
        self._cipher = Cipher(algorithms.ChaCha20(hkdf(key, None, info), bytes(16)), mode=None).encryptor()

    def read(self, count):
        return self._cipher.update(bytes(count))

    def signs(self, count):
        return 1.0 - 2.0 * np.unpackbits(np.frombuffer(self.read(-(-count // 8)), np.uint8))[:count]

    def permutation(self, count):
        words = np.frombuffer(self.read(8 * count), "<u8")
        return (np.sort(words >> 24 << 24 | np.arange(count, dtype=np.uint64)) & 0xFFFFFF).astype(np.int64)

    def orthogonal(self, size):
        words = np.frombuffer(self.read(16 * -(-size * size // 2)), "<u8") >> 11
        radius = np.sqrt(-2.0 * np.log((words[0::2] + 1.0) * 2.0**-53))
        angle = 2.0 * np.pi * (words[1::2] * 2.0**-53)
        normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()[: size * size]
        q, r = np.linalg.qr(normals.reshape(size, size))
        return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def hadamard(rows):
    """Walsh-Hadamard, orthonormal, of each run of as many values as the largest power of two that divides a row."""
    size = rows.shape[1]
    block, step = size & -size, 1
    out = rows.reshape(len(rows), -1, block).copy()
    while step < block:
        pairs = out.reshape(*out.shape[:2], -1, 2, step)
        first, second = pairs[..., 0, :].copy(), pairs[..., 1, :].copy()
        pairs[..., 0, :], pairs[..., 1, :] = first + second, first - second
        step *= 2
    return (out / np.sqrt(block)).reshape(rows.shape)


def link(key, task, stream, scale, nonce, rows, undo=False):
    """The link layer of rows (slices, C H W)."""
    size = rows.shape[1]
    numbers = [2, 1, 0] if undo else [0, 1, 2]
    orders = [Stream(key, task, stream, scale, nonce, "link permutation", n).permutation(size) for n in range(3)]
    signs = [Stream(key, task, stream, scale, nonce, "link signs", n) for n in range(3)]
    signs = [np.stack([one.signs(size) for _ in rows]) for one in signs]
    for n in numbers:
        if undo:
            mixed, rows = hadamard(rows) * signs[n], np.empty_like(rows)
            rows[:, orders[n]] = mixed
        else:
            rows = hadamard(rows[:, orders[n]] * signs[n])
    return rows


def inner(key, task, stream, scale, values, undo=False):
    """The inner layer of latents (slices, C, H, W)."""
    matrix = Stream(key, task, stream, scale, b"", "inner orthogonal").orthogonal(values.shape[1])
    return np.einsum("ij,njhw->nihw", matrix if undo else matrix.T, values)


HALF = np.array([0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326])
LEVELS = np.concatenate((-HALF[::-1], HALF))


def check(key, layer, task, nonce=b""):
    return hmac.digest(key, fields("ppcmi-check/1", layer, task, nonce), "sha256")[:8].hex()


def seal(link_key, inner_key, task, codec, profile, case, images, nonce=None):
    """A bundle of image latents, i8."""
    nonce = nonce or os.urandom(16)
    tensors = {}
    for scale, values in images.items():
        rows = inner(inner_key, task, "image", scale, values).reshape(len(values), -1)
        rows = link(link_key, task, "image", scale, nonce, rows)
        factors = np.abs(rows).max(axis=1) / 127
        tensors[f"image.{scale}"] = np.round(rows / factors[:, None]).astype(np.int8)
        tensors[f"image.{scale}.scale"] = factors.astype(np.float32)
    count = len(next(iter(images.values())))
    header = {
        "format": "ppcmi-bundle/2", "task": task, "codec": codec, "profile": profile, "mode": "two-layer",
        "quantization": "i8", "nonce": nonce.hex(), "link_check": check(link_key, "link", task, nonce),
        "inner_check": check(inner_key, "inner", task), "case": case, "slice_indices": list(range(count)),
        "shapes": {"image": {scale: list(values.shape[1:]) for scale, values in images.items()}},
        "in_reply_to": None, "model": None, "variant": 0,
    }  # fmt: skip
    return safetensors.numpy.save(tensors, {"ppcmi": json.dumps(header)})


def open_bundle(link_key, inner_key, data, stream):
    """Header and plain latents of a bundle."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ppcmi"])
    tensors, task, nonce = safetensors.numpy.load(data), header["task"], bytes.fromhex(header["nonce"])
    if header["link_check"] != check(link_key, "link", task, nonce):
        raise ValueError("another link key")
    latents = {}
    for scale, shape in header["shapes"][stream].items():
        rows = tensors[f"{stream}.{scale}"]
        if header["quantization"] == "i4":
            halves = np.stack((rows & 15, rows >> 4), axis=2).reshape(len(rows), -1)
            rows = LEVELS[halves[:, : int(np.prod(shape))]]
        rows = rows.astype(np.float64)
        if header["quantization"] in ("i8", "i4"):
            rows *= tensors[f"{stream}.{scale}.scale"].astype(np.float64)[:, None]
        rows = link(link_key, task, stream, scale, nonce, rows, undo=True)
        latents[scale] = inner(inner_key, task, stream, scale, rows.reshape(-1, *shape), undo=True)
    return header, latents


def open_sealed(private_key, data, context):
    sender, own = data[:32], X25519PrivateKey.from_private_bytes(private_key)
    shared = own.exchange(X25519PublicKey.from_public_bytes(sender))
    key = hkdf(shared, sender + own.public_key().public_bytes_raw(), fields("ppcmi-seal/1", context))
    return AESGCM(key).decrypt(bytes(12), data[32:], context)


class Client:
    """An enrolled site."""

    def __init__(self, url, code):
        self.url, own = url, X25519PrivateKey.generate()
        public = base64.b64encode(own.public_key().public_bytes_raw()).decode()
        answer = requests.post(f"{url}/v1/enrol", json={"code": code, "public_key": public}, timeout=30)
        answer.raise_for_status()
        made = answer.json()
        self.site_id, self.headers = made["site_id"], {"Authorization": f"Bearer {made['token']}"}
        server_key, salt = (base64.b64decode(made[name]) for name in ("server_public_key", "link_salt"))
        self.link_key = link_key_of(own.private_bytes_raw(), server_key, made["site_id"], salt)

    def join(self, task):
        requests.post(
            f"{self.url}/v1/tasks/{task}/members", json={}, headers=self.headers, timeout=30
        ).raise_for_status()

    def map(self, inner_key, task, images, case):
        """Mask latents for image latents."""
        about = requests.get(f"{self.url}/v1/tasks/{task}", headers=self.headers, timeout=30).json()
        model, identity = about["active_model"], f"{about['task']['name']}@{about['task']['version']}"
        bundle = seal(self.link_key, inner_key, identity, model["codec"], model["profile"], case, images)
        answer = requests.post(f"{self.url}/v1/tasks/{task}/map", data=bundle, headers=self.headers, timeout=60)
        answer.raise_for_status()
        asked, _ = open_bundle(self.link_key, inner_key, bundle, "image")
        header, masks = open_bundle(self.link_key, inner_key, answer.content, "mask")
        for name in ("case", "slice_indices", "codec", "profile", "variant"):
            if header[name] != asked[name] or header["in_reply_to"] != asked["nonce"]:
                raise ValueError("the answer is to another request")
        return masks
