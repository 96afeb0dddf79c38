"""The headless Slicer behaves as Slicer does where our module would notice: modules, messages, packages, threads."""

import os
import subprocess
import sys
import threading

import pytest

from slicer_module.tiny_module import TINY, add_volume


def test_a_module_is_loaded_with_its_panel_set_up_and_entered(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    assert tiny.module.title == "Tiny"
    assert tiny.widget.events == ["enter"]
    assert tiny.instance.startups == 1
    assert tiny.logic is tiny.widget.logic
    assert slicer.modules.TinyWidget is tiny.widget
    assert slicer.util.getModuleWidget("Tiny") is tiny.widget
    assert slicer.util.getModuleLogic("Tiny") is tiny.logic
    assert slicer.util.modulePath("Tiny") == str(TINY)
    assert slicer.util.selectedModule() == "Tiny"


def test_unloading_a_module_cleans_up_and_forgets_its_code(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    slicer_host.unload_module("Tiny")
    assert tiny.widget.events[-1] == "cleanup"
    assert "Tiny" not in sys.modules
    assert not hasattr(slicer.modules, "tiny")
    assert slicer_host.load_module(TINY).source is not tiny.source


def test_reloading_a_module_builds_its_panel_anew(slicer_host):
    import slicer.util

    tiny = slicer_host.load_module(TINY)
    slicer.util.reloadScriptedModule("Tiny")
    assert slicer.util.getModuleWidget("Tiny") is not tiny.widget
    assert tiny.widget.events[-1] == "cleanup"


def test_the_self_test_of_a_module_runs(slicer_host):
    import slicer

    tiny = slicer_host.load_module(TINY)
    slicer.selfTests["Tiny"](msec=0)
    assert tiny.source.TinyTest.ran


def test_a_click_runs_the_module_on_the_chosen_volume(slicer_host):
    import slicer.util

    tiny = slicer_host.load_module(TINY)
    volume = add_volume("Chest")
    tiny.widget.ui.inputSelector.setCurrentNode(volume)
    tiny.widget.ui.applyButton.click()
    assert (slicer.util.arrayFromVolume(volume) == 8).all()
    assert tiny.widget.ui.statusLabel.text == "Done"


def test_a_click_that_fails_shows_why(slicer_host):
    tiny = slicer_host.load_module(TINY)
    tiny.widget.ui.applyButton.click()
    assert slicer_host.dialogs.texts == ["Failed to compute results.\n\nThere is no volume."]
    assert isinstance(slicer_host.slot_errors.pop(), ValueError)


def test_what_is_not_in_slicer_is_not_in_the_host(slicer_host):
    import ctk
    import slicer

    for thing, name in ((slicer.app, "scene"), (slicer, "volumes"), (slicer.modules, "tiny"), (ctk, "ctkButton")):
        with pytest.raises(AttributeError):
            getattr(thing, name)


def test_a_status_message_reaches_the_main_window(slicer_host):
    import slicer.util

    assert slicer.util.showStatusMessage("Ready", 1000)
    assert slicer.util.mainWindow().statusBar().currentMessage() == "Ready"


def test_requirements_are_checked_for_real_and_installed_only_by_the_test(slicer_host, tmp_path, monkeypatch):
    import slicer.packaging

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# ours\nnumpy>=1.20\n-r other.txt\nno-such-package-here>=2 ; python_version>'3'\n")
    wanted = slicer.packaging.load_requirements(requirements)
    assert [r.name for r in wanted] == ["numpy", "no-such-package-here"]
    assert slicer.packaging.pip_check("numpy>=1.20")
    assert not slicer.packaging.pip_check(wanted)


def test_declined_requirements_raise(slicer_host, tmp_path):
    import slicer.packaging

    slicer_host.dialogs.answer("cancel")
    with pytest.raises(RuntimeError):
        slicer.packaging.pip_ensure(["no-such-package-here"], requester="PPCMI Segment")
    asked = slicer_host.dialogs.shown[0]
    assert "no-such-package-here" in asked.text + asked.details


def test_the_longest_block_of_the_main_thread_is_measured(slicer_host):
    import time

    import qt

    with slicer_host.heartbeat() as heart:
        slicer_host.process_events(0.05)
    assert heart.longest_block < 0.05
    with slicer_host.heartbeat() as heart:
        qt.QTimer.singleShot(0, lambda: time.sleep(0.2))
        slicer_host.process_events(0.3)
    assert 0.2 <= heart.longest_block < 0.3


def test_a_delayed_message_is_recorded_and_not_waited_for(slicer_host):
    import slicer.util

    slicer.util.delayDisplay("Encoding", 60_000)
    assert slicer_host.dialogs.texts == ["Encoding"]


def test_a_picture_of_the_panel_is_taken(slicer_host, tmp_path):
    tiny = slicer_host.load_module(TINY)
    slicer_host.grab(tiny.widget.parent, tmp_path / "panel.png", 300, 400, scale=2.0)
    from PIL import Image

    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.size == (600, 800)
        assert len(picture.convert("RGB").getcolors(100_000)) > 10


def test_the_host_leaves_nothing_behind_when_it_stops():
    script = (
        "import sys\n"
        "from slicer_host.host import SlicerHost\n"
        "host = SlicerHost(); host.start()\n"
        "import slicer, qt, ctk\n"
        f"host.load_module({str(TINY)!r})\n"
        "host.stop()\n"
        "left = [n for n in ('qt', 'ctk', 'slicer.i18n', 'PyTorchUtils', 'Tiny') if n in sys.modules]\n"
        "left += [n for n in ('app', 'mrmlScene', 'modules', 'qMRMLWidget') if hasattr(slicer, n)]\n"
        "host.start(); host.stop()\n"
        "sys.exit(repr(left) if left else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif("SLICER_BASE_PYTHON" not in os.environ, reason="SLICER_BASE_PYTHON names no Base/Python of Slicer")
def test_slicers_own_python_files_are_in_place_of_the_hosts(slicer_host):
    import slicer

    base = os.environ["SLICER_BASE_PYTHON"]
    for name in ("ScriptedLoadableModule", "i18n", "packaging", "parameterNodeWrapper", "util"):
        assert getattr(slicer, name).__file__.startswith(base)
        assert sys.modules[f"slicer.{name}"].__file__.startswith(base)


def test_without_a_main_window_there_is_no_layout_and_messages_are_only_logged():
    script = (
        "import logging, sys\n"
        "from slicer_host.application import HostOptions\n"
        "from slicer_host.host import SlicerHost\n"
        "host = SlicerHost(HostOptions(main_window=False)); host.start()\n"
        "import slicer.util\n"
        "slicer.util.errorDisplay('It failed.')\n"
        "assert slicer.app.layoutManager() is None and slicer.util.mainWindow() is None\n"
        "assert slicer.app.commandOptions().noMainWindow and not host.dialogs.shown\n"
        f"assert host.load_module({str(TINY)!r}).widget.ui.applyButton.text == 'Apply'\n"
        "host.stop()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "It failed." in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the host runs PySide's event loop")
def test_a_thread_starves_while_the_event_loop_waits_and_moves_while_the_main_thread_does(slicer_host):
    import time

    steps, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            steps[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    slicer_host.process_events(0.5)
    in_the_loop, steps[0] = steps[0], 0
    time.sleep(0.5)
    while_python_waits = steps[0]
    stop.set()
    thread.join()
    assert in_the_loop < while_python_waits / 2
