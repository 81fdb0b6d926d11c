"""The same as `tfsparse sensitivity`, from a checkout.

python tools/sensitivity.py --help
"""

from __future__ import annotations

import sys

from tfsparse.cli import sensitivity

if __name__ == "__main__":
    sys.exit(sensitivity.main(sys.argv[1:]))
