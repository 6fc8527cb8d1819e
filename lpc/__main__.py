"""The command line of the library: ``python -m lpc report FILE``."""

import sys

from lpc.computing.stopping import ends_with_its_reader
from lpc.reporting.command import main

if __name__ == "__main__":
    with ends_with_its_reader():
        sys.exit(main())
