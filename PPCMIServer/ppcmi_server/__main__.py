"""``python -m ppcmi_server``."""

import sys

from ppcmi_server.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
