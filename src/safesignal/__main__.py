"""`python -m safesignal` is `safesignal`."""

import sys

from safesignal.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
