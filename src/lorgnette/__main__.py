"""`python -m lorgnette`, and `accelerate launch -m lorgnette` on several devices."""

import sys

from lorgnette.cli import main

if __name__ == "__main__":
    sys.exit(main())
