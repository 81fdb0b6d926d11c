"""The same as `tfsparse strip`, from a checkout.

python tools/strip.py --help
"""

from __future__ import annotations

import sys

from tfsparse.cli import strip

if __name__ == "__main__":
    sys.exit(strip.main(sys.argv[1:]))
