"""The command line of the library: ``python -m lpc report FILE``."""

import sys

from lpc.reporting.command import main
from lpc.stopping import ends_with_its_reader

if __name__ == "__main__":
    with ends_with_its_reader():
        sys.exit(main())
