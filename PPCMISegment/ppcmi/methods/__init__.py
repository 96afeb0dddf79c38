"""Methods: ours, and the systems that it is compared with (PAPER), over the same rails.

A task names its method. At the site a method says what of a case leaves (``protect``) and how an answer becomes a
segmentation again (``recover``); at the server which network is trained (``train``) and runs (``map``). Slicing,
bundles, cohorts, upload, jobs, models, commands and panels are the same for all.
"""
