"""What the privacy benchmark writes of its rows: a share of what the published method shows where both were tried."""

import pytest

from benchmarks.privacy_report import TEXT, measurements_of
from benchmarks.results import RESULTS

ORIGIN = {"commit": "0123456789ab", "machine": "a machine", "date": "2026-01-01"}
GUESS = 0.2


def rows(*, plain=0.6, **attacks):
    """Kept rows of attacks against ``published`` and ``coarse``, with the SSIM of each attack.

    :param plain: of A5 where nothing protects.
    """
    attacks["nothing"] = {"A5": plain}
    settings = {
        "nothing": ("no protection", "no protection"),
        "published": ("KLT as published; its server", "KLT as published"),
        "coarse": ("two layers, coarse; server with the codec", "two layers, coarse"),
    }
    found = {}
    for side, values in attacks.items():
        setting, defense = settings[side]
        for attack, value in values.items():
            finding = {"attack": attack, "measure": "SSIM", "value": value, "chance": GUESS}
            row = {"kind": "attack", "findings": [finding], "defense": defense, "collusion": False}
            found[f"{setting} / {attack}, a title"] = {**row, **ORIGIN}
    return found


def shares(kept):
    return {m.name.partition("of the published's")[2]: m.measured for m in measurements_of("a_set", kept) if m.target}


def test_a_share_is_of_what_lies_above_a_guess_with_and_without_known_images():
    kept = rows(published={"A4": 0.5, "A5": 0.6, "A6": 0.4}, coarse={"A3": 0.25, "A4": 0.4, "A6": 0.3})
    assert shares(kept) == {"": pytest.approx(0.5), ", no known image": pytest.approx(0.25)}


@pytest.mark.parametrize(
    ("published", "coarse"),
    [
        ({"A4": 0.5, "A6": 0.4}, {"A3": 0.25, "A4": 0.4}),
        ({"A3": 0.5, "A4": 0.5}, {"A4": 0.4, "A6": 0.3}),
        ({"A4": 0.5, "A6": 0.4}, {"A3": 0.25, "A6": 0.3}),
    ],
    ids=["A6 was not tried on ours", "A6 was not tried on the published", "A4 was not tried on ours"],
)
def test_where_a_decoder_was_not_trained_against_one_side_there_is_no_share(published, coarse):
    assert shares(rows(published=published, coarse=coarse)) == {}


@pytest.mark.parametrize("plain", [GUESS - 0.05, GUESS])
def test_where_decoders_learned_too_little_to_see_what_nothing_protects_there_is_no_share(plain):
    tried = {"A4": 0.5, "A6": 0.4}
    assert shares(rows(plain=plain, published=tried, coarse=tried)) == {}


def test_who_sees_a_profile_sees_the_smaller_ones_in_it():
    """What an attack draws of less counts for more, and never the other way round."""
    kept = rows(published={"A4": 0.5, "A6": 0.4}, coarse={"A4": 0.25, "A6": 0.25})
    smaller = rows(coarse={"A4": 0.35, "A6": 0.25})
    kept |= {
        name.replace("coarse", "minimal"): row | {"defense": "two layers, minimal"}
        for name, row in smaller.items()
        if "coarse" in name
    }
    targets = [m for m in measurements_of("a_set", kept) if m.target and not m.name.endswith("no known image")]
    found = {m.name.partition(":")[0]: m.measured for m in targets}
    assert found == {"a_set, coarse": pytest.approx(0.5), "a_set, minimal": pytest.approx(0.5)}


def test_a_score_is_the_best_of_all_ways_that_were_tried_with_what_a_guess_gives_for_masks():
    found = [
        ("A9", "images sent once more, by the mean", "top-1", 0.7),
        ("A9", "images sent once more, by a trained network", "top-1", 0.5),
        ("A5", "mask drawn from image latents", "Dice", 0.4),
        ("A5", "mask drawn from image latents, key undone by known cases", "Dice", 0.6),
    ]
    kept = {
        f"two layers, coarse; network / row {number}": {
            "kind": "score", **ORIGIN,
            "findings": [{"attack": attack, "title": title, "measure": measure, "value": value, "chance": GUESS}],
        }
        for number, (attack, title, measure, value) in enumerate(found)
    }  # fmt: skip
    scores = {m.name.rpartition(" / ")[2]: m.measured for m in measurements_of("a_set", kept)}
    assert scores == {
        "A9 images sent once more: top-1": 0.7,
        "A5 mask drawn from image latents: Dice": 0.6,
        "A5 the mask that fits most cases: Dice": GUESS,
    }


def test_the_text_below_the_tables_is_the_benchmarks():
    assert (RESULTS / "privacy.md").read_text() == TEXT
