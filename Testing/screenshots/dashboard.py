"""Pictures of the operator's dashboard: ``python -m screenshots.dashboard``, part of ``make screenshots``.

A server is made for it with three sites, two models and a training under way; a real browser opens its pages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from support.app_server import app_server
from support.browser import Watched, chromium
from support.dashboard_world import make_world

PICTURES = Path(__file__).resolve().parents[2] / "Resources" / "Screenshots"
DESK = {"viewport": {"width": 1180, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 800}, "device_scale_factor": 1.5}
LARGEST_BYTES = 200_000


def main() -> int:
    """Make the server, take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m screenshots.dashboard", description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder for the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="ppcmi-dashboard-") as folder,
        app_server(Path(folder) / "server") as server,
        chromium() as browser,
    ):
        world = make_world(server, Path(folder))
        world.activate(1)
        running = world.add_job("running", 5)
        shots = {
            "overview": ("", DESK), "sites": ("/sites", DESK), "cohorts": ("/cohorts", DESK),
            "job": (f"/jobs/{running}", DESK), "report": ("/jobs/2", DESK), "model": ("/models/tiny/2", DESK),
            "activate": ("/models/tiny/2/activate", DESK), "audit": ("/audit", DESK), "load": ("/load", DESK),
            "dark": ("/jobs/2", {**DESK, "color_scheme": "dark"}), "phone": ("", PHONE),
        }  # fmt: skip
        for name, (path, window) in shots.items():
            context = browser.new_context(**window)
            watched = Watched(context, world.url)
            watched.open("")
            watched.page.get_by_label("token").fill(world.token)
            watched.page.get_by_role("button", name="Log in").click()
            watched.open(path)
            file = options.out / f"dashboard-{name}.png"
            watched.page.screenshot(path=file)
            context.close()
            assert file.stat().st_size < LARGEST_BYTES, f"{file.name} is too large"
            assert watched.complaints == [], watched.complaints
    return 0


if __name__ == "__main__":
    sys.exit(main())
