"""What a service manager is told (sd_notify(3)): ready, reloading, stopping. Without one, nothing happens."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass

ADDRESS_VARIABLE = "NOTIFY_SOCKET"


@dataclass(frozen=True)
class ServiceManager:
    """systemd, or whoever speaks like it.

    :param address: of its datagram socket; a leading ``@`` stands for Linux' abstract names. None without one.
    """

    address: str | None

    def ready(self) -> None:
        """The server answers."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """It reads something again; :meth:`ready` follows."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """It ends what is under way."""
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        if not self.address or not hasattr(socket, "AF_UNIX"):
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:  # it is gone: so be it
            link.sendto(state.encode(), address)
