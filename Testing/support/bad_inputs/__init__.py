"""Bad and odd inputs, each made from scratch: what is expected of it, and what came of it.

``ALL`` is the list; ``Testing/unit/test_bad_inputs.py`` holds it, ``Testing/benchmarks/bad_inputs.py`` counts it.
"""

from support.bad_inputs.dicom_files import DICOM
from support.bad_inputs.kinds import BadInput, Outcome, outcome_of
from support.bad_inputs.labels import LABELS
from support.bad_inputs.nifti_files import NIFTI
from support.bad_inputs.places import PLACES
from support.bad_inputs.text_headers import TEXT_HEADERS

ALL = (*PLACES, *NIFTI, *TEXT_HEADERS, *DICOM, *LABELS)

__all__ = ["ALL", "BadInput", "Outcome", "outcome_of"]
