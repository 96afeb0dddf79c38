"""``ppcmi codec train`` and ``refine``: cases that cannot be used, what a decoder learned from, and being cancelled."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ppcmi import consortium
from ppcmi.cli import codec as codec_command
from ppcmi.cli import network as network_command
from ppcmi.cli.main import main
from ppcmi.codec.codec import Codec
from ppcmi.codec.learned_cases import digests_of, learned_from
from ppcmi.codec.refinement import USUAL_WEIGHT, USUAL_WEIGHT_TOGETHER, SiteDecoder
from ppcmi.codec.trained_network import TrainedNetwork
from ppcmi.consent_log import ConsentLog
from ppcmi.data_folders import find_cases
from ppcmi.errors import SiteError
from ppcmi.task import load_task
from support.batch_runs import write_voxels
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
FOLDS = {"one": "train", "two": "train", "three": "train", "four": "val"}


@pytest.fixture(scope="module")
def a_codec():
    return Codec(load_task(TASK_FILE), "autoencoder", {"quality": {}})


@pytest.fixture
def a_folder(tmp_path):
    """Labelled cases, one of them held out."""
    folder = tmp_path / "data"
    for number, name in enumerate(FOLDS):
        random = np.random.default_rng(number)
        for kind, highest in (("images", 300), ("labels", 3)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_voxels(folder / kind / f"{name}.nii.gz", random.integers(0, highest, (4, 20, 22)))
    rows = [f"{name},{fold}\n" for name, fold in FOLDS.items()]
    (folder / "split.csv").write_text("".join(["id,fold\n", *rows]))
    return folder


@pytest.fixture
def a_site(a_codec, tmp_path):
    """A site with a codec and a model; its server refuses to map anything, as one that is gone would."""
    with relay_for(TASK_FILE.read_text()) as relay:
        site = relay.enrol(tmp_path / "sites", "A")
        part = consortium.create(site, site.client(), "phantom", "consortium", "two-layer")
        consortium.publish_codec(site.client(), part, a_codec)
        a_codec.save(part.codec_path)
        relay.models = [{"number": 1, "state": "active", "profile": "coarse", "codec": a_codec.fingerprint}]
        yield site


@pytest.fixture
def run(a_site, a_folder, capsys):
    """Exit code and stderr of a command of the group."""

    def command(*words):
        usual = ("--task", "phantom", "--cases", a_folder, "--site", a_site.folder)
        code = main(["codec", *map(str, (*words, *usual, "--effort", "0.01", "--device", "cpu", "--quiet"))])
        return code, capsys.readouterr().err

    return command


@pytest.fixture
def decoder_path(a_site, a_codec):
    """Where the site has a decoder that was refined and measured a month ago."""
    path = a_site.task("phantom").decoder_path
    SiteDecoder(a_codec, {"coarse": 0.75}).save(path)
    return path


@pytest.mark.parametrize("words", [("refine",), ("train", "--replace")])
def test_a_second_training_beside_one_of_the_same_task_does_not_begin(run, a_site, decoder_path, words):
    before = decoder_path.read_bytes()
    with a_site.task("phantom").training():
        code, err = run(*words)
    assert (code, "Another training of this task runs" in err) == (SiteError.exit_code, True)
    assert decoder_path.read_bytes() == before


def test_who_cancels_the_measurement_has_the_decoder_of_before(run, decoder_path, monkeypatch):
    def cancelled(*arguments):
        raise KeyboardInterrupt

    before = decoder_path.read_bytes()
    monkeypatch.setattr(codec_command, "fit_share", cancelled)
    code, err = run("refine")
    assert code == 130
    assert err.endswith("the site's codec and decoder are as before, and another training begins anew.\n")
    assert "trained and kept" not in err
    assert decoder_path.read_bytes() == before


@pytest.mark.parametrize("together", [True, False])
def test_who_refines_without_the_others_what_was_learned_together_is_told(together, run, decoder_path, a_codec):
    decoder = SiteDecoder(a_codec)
    decoder.usual_weight = USUAL_WEIGHT_TOGETHER if together else USUAL_WEIGHT
    decoder.save(decoder_path)
    assert ("learned together with the other members" in run("refine")[1]) == together


def test_where_the_server_is_gone_during_the_measurement_the_training_is_kept(run, decoder_path, a_codec):
    before = decoder_path.read_bytes()
    code, err = run("refine")
    assert code == 12
    assert "trained and kept, with the usual share of the server" in err
    assert decoder_path.read_bytes() != before
    assert SiteDecoder.load(decoder_path, a_codec).weights == {}


def test_a_decoder_knows_the_cases_that_it_learned_from_by_their_bytes(run, decoder_path, a_folder, tmp_path):
    (a_folder / "split.csv").write_text("id,fold\none,train\ntwo,train\nthree,\nfour,\n")
    assert run("refine")[0] == 0
    learned = learned_from(decoder_path)
    assert learned == digests_of(case for case in find_cases(a_folder) if case.fold == "train")
    assert len(learned) == 2
    (a_folder / "split.csv").unlink()
    a_folder.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "images" / "one.nii.gz").rename(tmp_path / "elsewhere" / "images" / "renamed.nii.gz")
    renamed = next(case for case in find_cases(tmp_path / "elsewhere") if case.name == "renamed")
    assert digests_of([renamed]) < learned


@pytest.fixture
def gather(a_site, a_codec, monkeypatch, capsys):
    """``network gather`` where one other member shares a network: its exit code and stderr."""

    def command():
        code = main(["network", "gather", "--task", "phantom", "--site", str(a_site.folder), "--quiet"])
        return code, capsys.readouterr().err

    member = SimpleNamespace(site_id="b", site_name="B", shared="2026-01-01T00:00:00Z")
    network = TrainedNetwork.of(a_codec.local, a_codec, 5, last=True)
    found = [SimpleNamespace(member=member, network=network, why_not="")]
    monkeypatch.setattr(network_command, "read_shared", lambda *arguments: found)
    return command


def test_with_the_members_mean_a_site_still_knows_what_its_own_network_learned_from(gather, a_site, a_codec):
    path = a_site.task("phantom").decoder_path
    SiteDecoder(a_codec, {"coarse": 0.75}, ["0123"]).save(path)
    assert gather()[0] == 0
    decoder = SiteDecoder.load(path, a_codec)
    assert (decoder.weights, decoder.learned_from) == ({"coarse": 0.75}, {"0123"})


def test_the_members_mean_does_not_replace_what_a_training_makes(gather, a_site, decoder_path):
    before = decoder_path.read_bytes()
    with a_site.task("phantom").training():
        code, err = gather()
    assert (code, "Another training of this task runs" in err) == (SiteError.exit_code, True)
    assert decoder_path.read_bytes() == before


@pytest.mark.parametrize("kind", ["image", "labels"])
@pytest.mark.parametrize("words", [("train", "--replace", "--publish-anyway"), ("refine",)])
def test_a_case_that_cannot_be_used_is_named_with_the_cause_and_left_out(words, kind, run, a_folder, monkeypatch):
    folder, read = {"image": ("images", "image"), "labels": ("labels", "label file")}[kind]
    (a_folder / folder / "two.nii.gz").write_bytes(b"no image")
    learned = []
    for name in ("train_codec", "refine_local_network"):
        whole = getattr(codec_command, name)

        def counted(first, second, *rest, whole=whole, **options):
            learned.append(next(each for each in (first, second) if hasattr(each, "cases")).cases)
            return whole(first, second, *rest, **options)

        monkeypatch.setattr(codec_command, name, counted)
    code, err = run(*words)
    assert code == (0 if words[0] == "train" else 12)  # the server of these tests refuses to map
    assert f"ppcmi: left out two, as its {kind} cannot be used: The {read} cannot be read" in err
    assert learned == [2]


@pytest.mark.parametrize("words", [("train", "--replace", "--publish-anyway"), ("refine",)])
def test_where_no_case_is_left_each_is_named_and_the_code_is_that_of_cases_that_failed(words, run, a_folder):
    for name in FOLDS:
        (a_folder / "labels" / f"{name}.nii.gz").write_bytes(b"no image")
    code, err = run(*words)
    assert code == 20
    assert err.count("as its labels cannot be used") == 3
    assert err.splitlines()[-1] == "ppcmi: None of the chosen cases can be used."


def test_who_publishes_a_codec_is_told_who_gets_it_and_the_log_has_it(run, a_site, capsys):
    code, err = run("train", "--replace", "--publish-anyway")
    assert code == 0, err
    (entry,) = ConsentLog(a_site.folder).entries()
    codec = Codec.load(a_site.task("phantom").codec_path)
    assert (entry.action, entry.task, entry.what) == ("codec", codec.task.identity, {"codec": codec.fingerprint})
    assert "Every member of the consortium gets it. It learned from this site's images" in err
    assert main(["site", "consents", "--site", str(a_site.folder)]) == 0
    assert codec.fingerprint in capsys.readouterr().out


def test_an_unlabelled_image_that_cannot_be_read_is_left_out(run, a_folder, tmp_path):
    (tmp_path / "more" / "images").mkdir(parents=True)
    (tmp_path / "more" / "images" / "blank.nii.gz").write_bytes(b"no image")
    code, err = run("train", "--replace", "--publish-anyway", "--unlabelled", tmp_path / "more")
    assert code == 0, err
    assert "left out blank, as its image cannot be used" in err


def test_scores_without_a_share_of_the_model_are_said_to_be_the_site_s_own(a_site, a_folder, a_codec, capsys):
    SiteDecoder(a_codec, {"coarse": 0.0}).save(a_site.task("phantom").decoder_path)
    words = ("--task", "phantom", "--cases", a_folder, "--site", a_site.folder, "--device", "cpu", "--quiet")
    assert main(["model", "validate", "--keep", *map(str, words)]) == 0
    said = capsys.readouterr()
    assert "the server has no share in its predictions" in said.err
    assert "Dice alone" in said.out
