"""Key derivation: from a 32-byte key and a context to signs, permutations, normals and orthogonal matrices.

``bytes = ChaCha20(HKDF-SHA256(key, info=context))``, the stream cipher of RFC 8439 with block counter and nonce zero.
How bytes become numbers is written down at each method of :class:`KeyStream`, in integers and float64, so that the
result depends on no library's random generator: signs and permutations are equal everywhere, normals and matrices to
the last bits of float64. ``Testing/unit/klt_vectors.json`` holds test vectors.
"""

from __future__ import annotations

import hmac

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

VERSION = b"ppcmi-klt/1"
CHECK_VERSION = b"ppcmi-check/1"
NONCE_VERSION = b"ppcmi-nonce/1"

KEY_BYTES = 32
NONCE_BYTES = 16

_SIGNS_OF_BYTE = 1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)
"""``(256, 8)``: a third of the time of unpacking a stream's bits and turning them into signs."""


def encode_fields(*fields: bytes | str | int) -> bytes:
    """Fields as one byte string that no other sequence of fields gives: each behind its length (u32, little-endian).

    Text is UTF-8, whole numbers are their decimal digits.
    """
    encoded = [field if isinstance(field, bytes) else str(field).encode() for field in fields]
    return b"".join(len(field).to_bytes(4, "little") + field for field in encoded)


def context_of(task: str, stream: str, scale: str, *, purpose: str, nonce: bytes = b"", round_: int = 0) -> bytes:
    """What one derived object is for: no two objects of the KLT share a context, so none shares its bytes.

    The fields are, in this order: version, task, stream, scale, nonce, purpose, round.
    """
    return encode_fields(VERSION, task, stream, scale, nonce, purpose, round_)


def key_stream(key: bytes, context: bytes, length: int) -> bytes:
    """The first ``length`` bytes of the key's stream for ``context``."""
    return KeyStream(key, context).read(length)


def key_check(key: bytes, layer: str, task: str, nonce: bytes = b"") -> str:
    """Key check value, 16 hex digits: tells a wrong key before any arithmetic and gives nothing of the key away."""
    return hmac.digest(key, encode_fields(CHECK_VERSION, layer, task, nonce), "sha256")[:8].hex()


def nonce_of(key: bytes, content: bytes) -> bytes:
    """The nonce under which ``content`` leaves: the same for the same content, as random as the key for any other.

    So nobody has to trust a random generator, and what is rounded on the way is rounded alike every time.
    """
    return hmac.digest(key, encode_fields(NONCE_VERSION, content), "sha256")[:NONCE_BYTES]


def require_key(key: bytes) -> bytes:
    """The key itself.

    :raises ValueError: if it has not 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}")
    return key


class KeyStream:
    """The key's stream of bytes for one context, read from its start; every call goes on where the last one ended.

    Example::

        stream = KeyStream(key, context_of("phantom@1", "image", "b", purpose="link signs", nonce=nonce))
        first, second = stream.signs(16384), stream.signs(16384)
    """

    def __init__(self, key: bytes, context: bytes) -> None:
        cipher_key = HKDF(SHA256(), KEY_BYTES, salt=None, info=context).derive(require_key(key))
        self._encryptor = Cipher(algorithms.ChaCha20(cipher_key, bytes(16)), mode=None).encryptor()

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        return self._encryptor.update(bytes(length))

    def signs(self, count: int) -> NDArray[np.float32]:
        """``count`` values of +1 and -1 from ``ceil(count / 8)`` bytes: bits, most significant first, 1 meaning -1."""
        stream = np.frombuffer(self.read(-(-count // 8)), dtype=np.uint8)
        signs: NDArray[np.float32] = np.take(_SIGNS_OF_BYTE, stream, axis=0).reshape(-1)[:count]
        return signs

    def permutation(self, size: int) -> NDArray[np.int64]:
        """A permutation of ``0 .. size - 1`` (at most 2^24) from ``8 size`` bytes.

        Index ``i`` goes below the upper 40 bits of the ``i``-th little-endian 64-bit word; the words are sorted and
        their lower 24 bits are the permutation. The words are distinct, so every sorting algorithm gives the same.
        """
        if not 0 < size <= 1 << 24:
            raise ValueError(f"a permutation has 1 to 2^24 elements, got {size}")
        low = np.uint64((1 << 24) - 1)
        words = np.frombuffer(self.read(8 * size), dtype="<u8").astype(np.uint64)
        words = np.sort((words & ~low) | np.arange(size, dtype=np.uint64))
        return (words & low).astype(np.int64)

    def normals(self, count: int) -> NDArray[np.float64]:
        """``count`` independent standard normals by Box and Muller, each pair from two little-endian 64-bit words.

        With ``m`` the upper 53 bits of a word, ``u = (m1 + 1) / 2^53`` lies in (0, 1] and ``v = m2 / 2^53`` in [0, 1);
        the pair is ``sqrt(-2 ln u) cos(2 pi v)``, ``sqrt(-2 ln u) sin(2 pi v)``. An odd count drops the last one.
        """
        pairs = -(-count // 2)
        words = np.frombuffer(self.read(16 * pairs), dtype="<u8").astype(np.uint64).reshape(pairs, 2)
        mantissas = (words >> np.uint64(11)).astype(np.float64)
        radius = np.sqrt(-2.0 * np.log((mantissas[:, 0] + 1.0) * 2.0**-53))
        angle = 2.0 * np.pi * (mantissas[:, 1] * 2.0**-53)
        values: NDArray[np.float64] = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
        return values[:count]

    def orthogonal(self, size: int) -> NDArray[np.float64]:
        """An orthogonal ``(size, size)`` matrix, uniform in the Haar measure.

        ``Q`` of ``A = Q R`` with ``R``'s diagonal positive, for ``A`` row by row of standard normals
        (F. Mezzadri, How to generate random matrices from the classical compact groups, 2007).
        """
        q, r = np.linalg.qr(self.normals(size * size).reshape(size, size))
        matrix: NDArray[np.float64] = q * np.where(np.diag(r) < 0.0, -1.0, 1.0)
        return matrix
