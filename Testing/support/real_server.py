"""A real ``ppcmi-server`` in its own process on loopback, driven as an operator drives it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from ppcmi_server.cli.main import main

START_S = 60


class RealServer:
    """A server's folder, what it printed, and where it listens. It serves and trains in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.log = ""
        self.pid = 0

    @property
    def environment(self) -> dict[str, str]:
        """Of its processes."""
        return {
            **os.environ,
            "PPCMI_SERVER_DIR": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder.parent / "config"),
        }

    def command(self, *arguments: str) -> str:
        """What an operator's command prints; it must succeed."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*arguments, "--dir", str(self.folder)])
        assert code == 0, f"ppcmi-server {' '.join(arguments)}: {err.getvalue()[-2000:]}"
        self.log += out.getvalue() + err.getvalue()
        return out.getvalue()

    def add_site(self, name: str) -> str:
        """The one-time code of a new site."""
        return max(re.findall(r"[A-Za-z0-9_-]{8,}", self.command("site", "add", name)), key=_looks_like_a_code)


@contextmanager
def real_server(folder: Path, *tasks: Path) -> Iterator[RealServer]:
    """Make a server in ``folder``, add tasks, serve until the context ends."""
    subprocess.run(
        _ppcmi_server("init", str(folder)), env=RealServer(folder).environment, check=True, capture_output=True
    )
    for task in tasks:
        RealServer(folder).command("task", "add", str(task))
    with serving(folder) as server:
        yield server


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[RealServer]:
    """Let the server that was made in ``folder`` serve until the context ends, at an address of its own."""
    server = RealServer(folder)
    process = subprocess.Popen(
        _ppcmi_server("serve", str(folder), "--port", "0", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=server.environment,
    )
    server.pid = process.pid
    listening = threading.Event()

    def read_log() -> None:
        for line in process.stdout or ():
            server.log += line
            found = re.search(r"Listening on (http\S+)", line)
            if found:
                server.url = found[1]
                listening.set()
        listening.set()  # it ended

    reader = threading.Thread(target=read_log, daemon=True)
    reader.start()
    try:
        assert listening.wait(START_S), "the server did not start in time"
        assert server.url, f"the server ended: {server.log[-2000:]}"
        yield server
    finally:
        process.terminate()
        process.wait(20)
        reader.join(5)


def _ppcmi_server(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ppcmi_server", *arguments]


def _looks_like_a_code(text: str) -> int:
    """Codes mix letters, digits and hyphens; words of a sentence do not."""
    return len(text) * (any(c.isdigit() for c in text) or "-" in text)
