"""What the program does with bad and odd inputs: refused in a sentence, or read with exactly the right voxels."""

import pytest

from support.bad_inputs import ALL, outcome_of


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: bad.kind.replace(" ", "-"))
def test_a_bad_input_is_refused_in_a_sentence_or_read_exactly_right(bad, tmp_path):
    outcome = outcome_of(bad, tmp_path)
    assert outcome.fine, outcome.result


def test_the_survey_has_a_hundred_kinds():
    kinds = [bad.kind for bad in ALL]
    assert len(kinds) == len(set(kinds)) >= 100
