"""`python -m tfsparse`: the same as the command `tfsparse`."""

from __future__ import annotations

import sys

from tfsparse.cli.main import main

sys.exit(main())
