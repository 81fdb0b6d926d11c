"""The same as `tfsparse prune`, from a checkout.

python tools/prune.py --help
"""

from __future__ import annotations

import sys

from tfsparse.cli import prune

if __name__ == "__main__":
    sys.exit(prune.main(sys.argv[1:]))
