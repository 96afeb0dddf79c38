"""What a report of the audit says in words: how it measures, who attacks with what, and what it does not claim.

docs/privacy.md says the same at length. Figures are never in here: they come from a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

YES, NOT_KNOWN = "yes", "not known"


@dataclass(frozen=True)
class AttackerWords:
    """An attack in words.

    :param does: what is tried.
    :param knows: what it has beside what it sees.
    """

    does: str
    knows: str


ATTACKS: Mapping[str, AttackerWords] = {
    "A1": AttackerWords(
        "Decodes what it sees with the decoder of another codec, as the published evaluation did.",
        "A codec trained on its own images. The published test; a weak one, kept for comparison.",
    ),
    "A2": AttackerWords(
        "Solves for a fixed key from slices that it knows both plain and protected (orthogonal Procrustes).",
        "The codec, or one of its own, and a few known slices of other patients.",
    ),
    "A3": AttackerWords(
        "Aligns the statistics of what it sees with those of its own images' latents; no known slice is needed.",
        "The codec, or one of its own, its own images, and many protected cases of the site.",
    ),
    "A4": AttackerWords(
        "Trains a decoder on leaked pairs of a slice and what was seen of it.",
        "Leaked pairs from other patients; no codec.",
    ),
    "A5": AttackerWords(
        "Trains a decoder on plain latents: what the server of the published protocol holds.",
        "All keys, its own images, with and without the codec. The upper bound of what latents show.",
    ),
    "A6": AttackerWords(
        "Trains a decoder that no key can stop, as it uses only what every key keeps, under keys that it drew itself.",
        "The codec and its own images; no key and no pair.",
    ),
    "A7": AttackerWords(
        "As A6, without the codec.",
        "Its own images and a codec that it trained on them; no key and no pair.",
    ),
    "A8": AttackerWords(
        "The server and a member put together what they have.",
        "Both keys where members share the inner key, and the codec.",
    ),
    "A9": AttackerWords(
        "Recognizes an image that was sent again, or another case of the same patient.",
        "What it sees; once untrained, once with a matcher trained on its own images.",
    ),
    "A10": AttackerWords(
        "Tells whether a patient's case was in the training set of a network (LiRA with shadow models).",
        "The network, the case in question, and its own images to train shadow models on.",
    ),
    "A11": AttackerWords(
        "Looks for structure without any training: principal components, clusters, which case belongs to which image.",
        "What it sees; to match, also the images and a codec. The best map and cluster are chosen with the truth at "
        "hand: an upper bound.",
    ),
    "A12": AttackerWords(
        "Predicts attributes of a patient or a scanner, further columns of split.csv, from what it sees.",
        "Labelled examples from other patients.",
    ),
}
"""By the number in the suite (docs/privacy.md)."""

METHOD: tuple[str, ...] = (
    "The site's own cases are split by patient before anything is trained: those that are attacked, those that the "
    "attacker calls its own, and others that left before.",
    "Every attacker is told the method and everything but the keys that it lacks, has images of the same kind, and is "
    "trained anew for every profile and protection.",
    "What leaves is made by the layers that protect it in use, under keys drawn for the check; only quantization is "
    "left out, which favors attackers. Rows with noise are for comparison: this software adds none. Nothing was sent: "
    "all attackers ran here.",
    "A quick check trains no decoder for what leaves, so an attacker without the codec does little in it; only the "
    "full one tries what such an attacker would. In a full one attacks that end in pictures have three seeds, the "
    "others one.",
    "Where members share the inner key, a server with a member decodes what leaves as the site does. A server with the "
    "codec may do as well: that key is the same for all cases, so slices that are known both plain and protected show "
    "it. The two rows are alike then: what limits the pictures is what leaves, and no longer the key.",
    "Whether a case was in a training (A10) is asked of a network that is trained here in place of the server's, "
    "briefly and on half of the patients; the server's own network may show more or less.",
    "Of a minimized codec the controls 'key off' and 'wrong key' are of a codec that keeps images, which the attackers "
    "train: what shows so little could not say whether the attacks can see.",
    "'KLT as published' is the published transform on the codec of this site, not on the published networks.",
    "Patients of the folds test and val of split.csv are attacked first, as codecs are usually not trained on them. "
    "Where the codec was trained on the attacked cases, Dice and attacks are both better than on others.",
    "Intervals are 95 %, by bootstrap over the attacked patients, of this run; another seed or other cases move them.",
)

MEASURES: Mapping[str, str] = {
    "SSIM": "structural similarity (11 x 11 Gaussian) to the slice where that is not blank: 1 is the slice itself",
    "SSIM, whole slice": "the same with the blank parts, where blank pictures agree perfectly",
    "MS-SSIM": "structural similarity of the whole slice over several resolutions",
    "PSNR": "peak signal-to-noise ratio in dB: higher is nearer to the slice",
    "Dice": "overlap of two masks: 1 is the same mask",
    "top-1": "how often the nearest of all cases is the right one",
    "mAP": "mean average precision of the list of nearest cases",
    "F1": "balance of precision and recall at the best threshold",
    "AUC": "how often a true pair is ranked above a false one: one half is guessing",
    "max(AUC, 1 - AUC)": "the same for who may turn the answer round",
    "TPR": "how many of the true are found (true positive rate) while so many of the others are taken for true (FPR)",
    "matched rightly": "share of the cases that were given to their own image",
    "correlation": "how alike a map and the image are, position by position: 1 is the same but for its contrast",
}
"""By what the name of a measure begins with."""

FACTS: Mapping[str, str] = {
    "attacks": "attacks",
    "cases": "cases",
    "patients": "patients",
    "attacked": "patients attacked",
    "victims": "cases attacked",
    "slices": "slices attacked",
    "unseen": "attacked cases unknown to the codec",
    "outside": "cases that the attacker calls its own",
    "collected": "cases that left before",
    "leaked": "of these, known to the attacker as images",
    "seed": "first seed",
    "seeds": "seeds of the pictures",
    "codec": "fingerprint of the codec",
    "scope": "who shares codec and inner key",
    "dice_alone": "Dice of the network that comes with the codec, nothing leaving",
}
"""What was run, in words; other names stand for themselves."""

CLAIMS_NOT_MADE: tuple[str, ...] = (
    "That what leaves is anonymous. It is data about a patient's health, whatever the numbers above are.",
    "That no better attack exists. These were tried, with the compute that is written here; somebody with more images, "
    "more time or a better idea may see more.",
    "That the keyed transform is encryption. It decides whom a model serves; TLS and AES-256-GCM keep others out.",
    "That a low similarity means that nothing was learned. A picture can be unlike the slice and still show a finding; "
    "size, shape, scanner or identity may show where the picture does not.",
    "That means hold for everybody. An unusual patient can be seen better than the mean patient, and the numbers "
    "are of these cases, this codec and this seed.",
    "That members are kept out. A member of a consortium that shares the inner key reads what leaves, if the server or "
    "a thief of its data gives it to them.",
    "That the server's models forget. A model may tell whether a case was in its training, also after the case was "
    "withdrawn.",
    "That this report replaces an assessment under the law: it is evidence for one.",
)
"""Printed in every report."""
