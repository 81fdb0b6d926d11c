"""The same as `tfsparse export`, from a checkout.

python tools/export.py --help
"""

from __future__ import annotations

import sys

from tfsparse.cli import export

if __name__ == "__main__":
    sys.exit(export.main(sys.argv[1:]))
