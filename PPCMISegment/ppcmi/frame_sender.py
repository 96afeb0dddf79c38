"""Frames on their way to the server over a connection that may be cut: whole where they are small, else in chunks.

After a cut the server is asked what has arrived, and pieces are half as large from then on; they grow again while all
goes well. While they are smaller than usual, one is under way at a time. So a cut costs one piece sent again, and on a
bad line that is a small one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from ppcmi.client import ServerClient
from ppcmi.connection_errors import CertificateError, OffProtocolError, ProtocolVersionError
from ppcmi.errors import CancelledError, ConnectionFailedError, ServerRefusedError

LARGEST_BYTES = 8 << 20
SMALLEST_BYTES = 64 << 10
GOOD_PIECES = 4
"""So many pieces of a size without a cut, and the next ones are twice as large."""
LONGEST_PAUSE_S = 30.0

Extent = tuple[int, int]
"""Offset and size, in bytes."""

_LASTING = (CertificateError, OffProtocolError, ProtocolVersionError)
_CONFLICT = 409
_CUT = (408, 502, 504)
"""The body did not arrive at the server, or its answer not at whatever stands between."""


class FrameSender:
    """Sends the frames of one cohort; safe to use from several threads.

    :param largest: bytes of a piece at most.

    Example::

        sender = FrameSender(client, cohort_id, largest=state["chunk_bytes"])
        sender.send(index, frame, extents_of(state, index))
    """

    def __init__(self, client: ServerClient, cohort_id: str, largest: int = LARGEST_BYTES) -> None:
        self._client = client
        self._cohort_id = cohort_id
        self._size = PieceSize(largest)
        self._one_at_a_time = threading.Lock()
        self._aborted = threading.Event()
        self._counting = threading.Lock()
        self.bytes_sent = 0
        """Of all pieces; one that was cut counts as if it had been sent to its end."""
        self.bytes_again = 0
        """Of the pieces that were cut."""

    def abort(self) -> None:
        """End what is under way, in all threads, with a :class:`CancelledError`."""
        self._aborted.set()
        self._client.abort()

    def send(self, index: int, frame: bytes, there: Sequence[Extent] = ()) -> None:
        """Send what the server does not have of a frame.

        :param there: what it has, see :func:`extents_of`.
        :raises ConnectionFailedError: after as many cuts of smallest pieces in a row as the client's patience allows.
        :raises ServerRefusedError: if it does not take the frame.
        """
        digest, have, failures = hashlib.sha256(frame).hexdigest(), list(there), 0
        while True:
            piece = _next_piece(len(frame), have, self._size.now)
            try:
                self._send_piece(index, frame, digest, piece)
            except (ConnectionFailedError, ServerRefusedError) as error:
                failures += _is_cut(error) and piece[1] <= self._size.smallest
                if failures >= self._client.patience.attempts or not (_is_cut(error) or _is_conflict(error)):
                    raise
                if _is_cut(error):
                    self._pause(failures)
                state = self._client.cohort(self._cohort_id)
                if index in state.get("frames", []):
                    return  # the commit compares it, should it be another
                had, have = have, extents_of(state, index)
                if _is_conflict(error) and have == had:
                    raise  # not because somebody else sends the same
            else:
                if piece in have or _is_all(len(frame), [*have, piece]):
                    return
                have, failures = sorted([*have, piece]), 0

    def _send_piece(self, index: int, frame: bytes, digest: str, piece: Extent) -> None:
        offset, size = piece
        with self._lane(size < len(frame)):
            if self._aborted.is_set():
                raise CancelledError("Cancelled.")
            with self._counting:
                self.bytes_sent += size
            try:
                if size == len(frame):
                    self._client.put_frame(self._cohort_id, index, frame)
                else:
                    chunk = frame[offset : offset + size]
                    self._client.put_chunk(
                        self._cohort_id, index, offset, chunk, frame_bytes=len(frame), frame_digest=digest
                    )
            except (ConnectionFailedError, ServerRefusedError) as error:
                if _is_cut(error):
                    self._size.cut(size)
                    with self._counting:
                        self.bytes_again += size
                raise
            self._size.arrived(size)

    def _lane(self, is_part: bool) -> AbstractContextManager[object]:
        return self._one_at_a_time if is_part or self._size.is_reduced else nullcontext()

    def _pause(self, failures: int) -> None:
        seconds = min(self._client.patience.pause_s * 2**failures, LONGEST_PAUSE_S)
        if self._aborted.wait(seconds):
            raise CancelledError("Cancelled.")


class PieceSize:
    """How large pieces are at the moment; for several threads.

    :param largest: to begin with, and to grow to.
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.smallest = min(SMALLEST_BYTES, largest)
        self.now = largest
        self._good = 0
        self._lock = threading.Lock()

    @property
    def is_reduced(self) -> bool:
        """Whether there was a cut lately."""
        return self.now < self.largest

    def cut(self, size: int) -> None:
        """A piece of that size was cut; several of them by one event halve once."""
        with self._lock:
            self.now = max(self.smallest, min(self.now, size // 2))
            self._good = 0

    def arrived(self, size: int) -> None:
        """A piece of that size arrived."""
        with self._lock:
            self._good += size >= self.now
            if self._good >= GOOD_PIECES:
                self.now, self._good = min(self.largest, 2 * self.now), 0


def extents_of(state: dict[str, object], index: int) -> list[Extent]:
    """Which parts of a frame the server has, from what :meth:`~ppcmi.client.ServerClient.cohort` answers."""
    partial = state.get("partial", {})
    found = partial.get(str(index), []) if isinstance(partial, dict) else []
    return sorted((int(offset), int(size)) for offset, size in found)


def _next_piece(total: int, have: Sequence[Extent], size: int) -> Extent:
    """The first bytes that are missing; where none are, the last that came: sent again, they make the frame whole."""
    end = 0
    for offset, length in have:
        if offset > end:
            return end, min(size, offset - end)
        end = offset + length
    return (end, min(size, total - end)) if end < total else have[-1]


def _is_all(total: int, have: Sequence[Extent]) -> bool:
    return sum(size for _, size in have) == total


def _is_cut(error: ConnectionFailedError | ServerRefusedError) -> bool:
    if isinstance(error, ServerRefusedError):
        return error.status in _CUT
    return not isinstance(error, _LASTING)


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, ServerRefusedError) and error.status == _CONFLICT
