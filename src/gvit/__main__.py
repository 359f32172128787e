"""``python -m gvit``."""

import sys

from gvit.cli import main

if __name__ == "__main__":
    sys.exit(main())
