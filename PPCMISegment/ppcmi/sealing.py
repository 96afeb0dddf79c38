"""Sealing to a public key, and agreeing on a key: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), AES-256-GCM.

A sealed message is ``ephemeral public key (32) | AES-256-GCM(key, nonce 0, plaintext)`` with
``key = HKDF(X25519(ephemeral, recipient), salt=ephemeral | recipient, info="ppcmi-seal/1" | context)``. Every message
has an ephemeral key pair of its own, so the key is used once and the nonce may be zero. Keys are raw 32 bytes. The
``context`` says what a message is for: opened under another one, it does not open.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.klt.derivation import encode_fields

PUBLIC_KEY_BYTES = 32
TAG_BYTES = 16

_NONCE = bytes(12)


def new_private_key() -> bytes:
    """A fresh X25519 private key, 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key_of(private_key: bytes) -> bytes:
    """The public key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def fingerprint(public_key: bytes) -> str:
    """96 bits of the key's SHA-256 in six groups, ``ab12-cd34-...``, for two people to compare on the telephone."""
    digits = hashlib.sha256(encode_fields("ppcmi-fingerprint/1", public_key)).hexdigest()
    return "-".join(digits[start : start + 4] for start in range(0, 24, 4))


def seal(public_key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """``plaintext`` so that only the holder of the private key can open it, and only under the same ``context``.

    :raises BundleError: if ``public_key`` is not usable.
    """
    ephemeral = new_private_key()
    sender = public_key_of(ephemeral)
    key = _message_key(_exchange(ephemeral, public_key), sender, public_key, context)
    return sender + AESGCM(key).encrypt(_NONCE, plaintext, context)


def open_sealed(private_key: bytes, data: bytes, context: bytes) -> bytes:
    """The plaintext of :func:`seal`.

    :raises BundleError: if ``data`` is too short, or cannot have been sealed by anyone.
    :raises KeyMismatchError: if it was sealed to another key or for another purpose, or altered.
    """
    if len(data) < PUBLIC_KEY_BYTES + TAG_BYTES:
        raise BundleError("The sealed message is cut off; ask its sender for it again.")
    sender, ciphertext = data[:PUBLIC_KEY_BYTES], data[PUBLIC_KEY_BYTES:]
    key = _message_key(_exchange(private_key, sender), sender, public_key_of(private_key), context)
    try:
        return AESGCM(key).decrypt(_NONCE, ciphertext, context)
    except InvalidTag as error:
        raise KeyMismatchError(
            "The sealed message was made for another key or purpose, or altered; ask its sender for it again."
        ) from error


def agree(private_key: bytes, peer_public_key: bytes, context: bytes) -> bytes:
    """A 32-byte key that both ends of a link compute, each from its own private and the other's public key.

    :raises BundleError: if ``peer_public_key`` is not usable.
    """
    both = b"".join(sorted([public_key_of(private_key), peer_public_key]))
    return _derive(_exchange(private_key, peer_public_key), both, encode_fields("ppcmi-agree/1", context))


def _exchange(private_key: bytes, public_key: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private_key).exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:  # not 32 bytes, or a point of small order (RFC 7748, section 6.1)
        raise BundleError("The public key is not usable; ask its owner for it again.") from error


def _message_key(shared: bytes, sender: bytes, recipient: bytes, context: bytes) -> bytes:
    return _derive(shared, sender + recipient, encode_fields("ppcmi-seal/1", context))


def _derive(shared: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=salt, info=info).derive(shared)
