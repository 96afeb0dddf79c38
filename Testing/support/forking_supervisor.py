"""``python -m support.forking_supervisor FOLDER JOB POINT...``: a job whose workers are killed, each at the next point.

A real supervisor with real worker processes; they are forks, to be spared importing everything each time. The worker
after the last point is left to end. A point is a name and which occurrence of it, e.g. ``batch:3``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from ppcmi_server.config import load_config
from ppcmi_server.services import open_services
from ppcmi_server.training import jobs, worker
from ppcmi_server.training.supervisor import Supervisor

ROUND_S = 0.05


class Fork:
    """A child process with what a supervisor uses of ``Popen``."""

    def __init__(self, pid):
        self.pid, self.code = pid, None

    def poll(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        while self.poll() is None:
            time.sleep(ROUND_S)


def killer(point):
    """Kills this process when it is at the point."""
    name, _, occurrence = (point or "nowhere").partition(":")
    left = [int(occurrence or 1)]

    def at(here):
        if here == name:
            left[0] -= 1
            if not left[0]:
                os.write(sys.stdout.fileno(), f"killed at {point}\n".encode())  # in one piece: what follows is SIGKILL
                os.kill(os.getpid(), signal.SIGKILL)

    return at


def main(folder, job, *points):
    services = open_services(load_config(Path(folder), os.environ))
    left = list(points)

    def start(config, lease):
        point = left.pop(0) if left else None
        services.database.close()  # a fork shares no connection
        pid = os.fork()
        if not pid:
            os._exit(
                worker.main([folder, str(lease.job), lease.worker, str(lease.fence), "--device", "cpu"], killer(point))
            )
        return Fork(pid)

    supervisor = Supervisor(services, only=int(job), start_worker=start, retry_base_s=0.0)
    while True:
        supervisor.look()
        with services.database.reading() as session:
            found = jobs.find_job(session, int(job))
        if found.state not in jobs.UNFINISHED:
            print(f"{found.state} after {found.fence} claims", flush=True)
            return
        time.sleep(ROUND_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
