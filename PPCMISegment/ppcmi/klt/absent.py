"""No layer at all (`plain` mode): latents leave as they are, for methods that have no key (PAPER: Privacy-SF, Mixup).

The link key still names the two ends of a bundle by its check value, so that a reply of another site is refused. It
hides nothing: whoever reads a bundle reads the latents.
"""

from __future__ import annotations

from ppcmi.klt.derivation import key_check, nonce_of, require_key
from ppcmi.latents import Latents
from ppcmi.scales import Stream


class AbsentLayer:
    """The interface of :class:`~ppcmi.klt.link.LinkLayer` without a transform.

    :param key: the link key, 32 bytes.
    :param task_identity: the task's name and version.
    """

    def __init__(self, key: bytes, task_identity: str) -> None:
        self._key = require_key(key)
        self._task = task_identity

    def apply(self, latents: Latents, stream: Stream, nonce: bytes) -> Latents:
        """The latents themselves, float32."""
        return latents.map(lambda _, values: values.float())

    def invert(self, latents: Latents, stream: Stream, nonce: bytes) -> Latents:
        """The latents themselves, float32."""
        return latents.map(lambda _, values: values.float())

    def nonce(self, content: bytes) -> bytes:
        """The nonce for a bundle of this content; see :func:`~ppcmi.klt.derivation.nonce_of`."""
        return nonce_of(self._key, content)

    def check(self, nonce: bytes) -> str:
        """Key check value, 16 hex digits, for the bundle with this nonce."""
        return key_check(self._key, "plain", self._task, nonce)
