"""Runs the tests marked slow one by one, in an order drawn from the commit, until it is time.

python tools/slow_tests.py --until=1796140000     # seconds since 1970; none starts after that
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time

ENDED_WELL, NOTHING_RUN = 0, 5


def commit() -> str:
    """The commit's name; the same commit, the same order."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def names() -> list[str]:
    """Every slow test."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in listed.stdout.splitlines() if "::" in line]


def main() -> int:
    """The program: 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", type=float, default=float("inf"))
    until = parser.parse_args().until
    waiting = sorted(names())
    random.Random(commit()).shuffle(waiting)
    failed, run = [], 0
    for name in waiting:
        if time.time() > until:
            break
        code = subprocess.call(
            [sys.executable, "-m", "pytest", "-q", "-m", "slow", name]
        )
        run += 1
        if code not in (ENDED_WELL, NOTHING_RUN):
            failed.append(name)
    print(f"{run} of {len(waiting)} slow tests run, {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
