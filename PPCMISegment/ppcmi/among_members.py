"""What members of a consortium send each other through the server: encrypted under a key from their inner key.

``magic (8) | nonce (12) | AES-256-GCM(key, nonce, content, associated data = context)`` with
``key = HKDF-SHA256(inner key, info = context)`` (RFC 5869). The context says what the content is, so that one thing
cannot be taken for another. Every member has the inner key: what opens was made by a member, not by which.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.site_files import KEY_BYTES

GCM_NONCE_BYTES = 12


def encrypt(inner_key: bytes, magic: bytes, context: bytes, content: bytes) -> bytes:
    """``content`` so that only members can read it."""
    nonce = os.urandom(GCM_NONCE_BYTES)
    return magic + nonce + AESGCM(_key(inner_key, context)).encrypt(nonce, content, context)


def decrypt(inner_key: bytes, magic: bytes, context: bytes, encrypted: bytes) -> bytes:
    """The content.

    :raises BundleError: if it does not begin as it should, or is cut off.
    :raises KeyMismatchError: if no member made it for this context, or it was altered.
    """
    start = len(magic) + GCM_NONCE_BYTES
    if not encrypted.startswith(magic) or len(encrypted) < start:
        raise BundleError("What the server has for the members is damaged.")
    try:
        return AESGCM(_key(inner_key, context)).decrypt(encrypted[len(magic) : start], encrypted[start:], context)
    except InvalidTag as error:
        raise KeyMismatchError("What the server has for the members was not made by one of them.") from error


def _key(inner_key: bytes, context: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=context).derive(inner_key)
