"""A server that takes connections and never answers: nobody's computing waits for it, and questions do not pile up."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from slicer_module.panel import MODULE


@pytest.fixture
def a_widget(slicer_host, folder, monkeypatch):
    """The module, of a site whose server hangs."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        document = json.loads((folder / "site.json").read_text())
        document["server_url"] = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        (folder / "site.json").write_text(json.dumps(document))
        monkeypatch.setenv("PPCMI_SITE_DIR", str(folder))
        yield slicer_host.load_module(MODULE).widget


def test_the_computing_thread_is_free_while_panels_ask(a_widget, slicer_host):
    for title in ("Segment", "Site"):
        a_widget.ui.panelsTabWidget.currentIndex = list(a_widget.panels).index(title)
        slicer_host.process_events(0.1)
    assert "asking its server" in a_widget.segmentPanel.ui.siteLabel.text
    assert a_widget.sitePanel.consortium.busy
    computed = a_widget.logic.work.worker.submit(lambda: "computed")
    slicer_host.wait_until(computed.done, timeout=3)


def test_a_question_ends_when_the_module_is_opened_again(a_widget, slicer_host):
    from ppcmi.client import ServerClient

    begun, ended, call = [], [], ServerClient.task

    def counted(client, name):
        begun.append(name)
        try:
            return call(client, name)
        finally:
            ended.append(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerClient, "task", counted)
        for _ in range(5):
            a_widget.enter()
            slicer_host.process_events(0.3)
        slicer_host.wait_until(lambda: len(begun) - len(ended) == 1, timeout=3)
        assert a_widget.logic.work.network._work_queue.qsize() == 0
        a_widget.segmentPanel.close()
        slicer_host.wait_until(lambda: len(begun) == len(ended), timeout=3)


def test_a_question_is_given_up_while_somebody_waits_for_the_answer(a_widget, slicer_host):
    slicer_host.wait_until(lambda: not a_widget.segmentPanel._asking.running, timeout=30)
    assert "does not answer in time" in a_widget.segmentPanel.ui.siteLabel.text


def test_a_job_that_was_not_begun_when_its_steps_were_cancelled_never_is(slicer_host):
    slicer_host.load_module(MODULE)
    from PPCMISegmentLib.Steps import inBackground

    done, free = [], threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(free.wait)
        steps = inBackground(executor, lambda: done.append("too late"))
        next(steps)
        steps.close()
        free.set()
    assert done == []
