"""`python -m needle` is the `needle` command."""

import sys

from needle.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
