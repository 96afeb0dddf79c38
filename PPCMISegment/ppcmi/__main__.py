"""``python -m ppcmi`` is ``ppcmi``."""

import sys

from ppcmi.cli.main import main

sys.exit(main())
