"""Workers of a search: how much faster two are than one, kills, and the wait for a trial.

    python benchmarks/search_workers.py

scikit-learn's digits, every worker held to one thread. Times are of whole searches in turn;
then a search of two workers is killed ten times, workers and all, at random moments, and goes on
each time; last, a worker that has its kernel asks a study of a thousand trials for the next.
Writes benchmarks/results/search_workers.json, each part as it is done.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jobs
import numpy as np

from tfsparse import files

RESULTS = pathlib.Path(__file__).parent / "results" / "search_workers.json"
RUNS = pathlib.Path("runs") / "search_workers"
TRIALS, EPOCHS, KILLS, STORED = 16, 6, 10, 1000


def command(folder: pathlib.Path, workers: int, trials: int = TRIALS) -> list[str]:
    """A search of digits."""
    return [sys.executable, "-m", "tfsparse.search", "--data=digits", f"--trials={trials}",
            f"--epochs={EPOCHS}", "--objectives=error,weight_bytes", "--sampler=random",
            "--stop_hopeless=false", f"--workers={workers}", f"--workdir={folder}"]  # fmt: skip


def seconds(workers: int, turn: int) -> float:
    """How long a whole search takes."""
    folder = RUNS / f"{workers}-{turn}"
    started = time.perf_counter()
    subprocess.run(command(folder, workers), check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, **jobs.ONE_THREAD})  # fmt: skip
    return time.perf_counter() - started


def killed() -> dict:
    """A search that is killed ten times, workers and all; what its study holds then."""
    import optuna

    from tfsparse.search import study

    folder, rng, kills = RUNS / "killed", np.random.default_rng(0), 0
    trials, code = 12, None
    while code is None:
        running = subprocess.Popen(command(folder, 2, trials), start_new_session=True,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            limit = 20 + 25 * rng.random() if kills < KILLS else None
            code = running.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            kills += 1
    held = optuna.load_study(
        study_name=study.NAME, storage=f"sqlite:///{folder}/study.db"
    )
    states = [trial.state.name for trial in held.trials]
    told = [json.dumps(t.user_attrs[study.CONFIGURATION], sort_keys=True)
            for t in held.trials if t.state.name == "COMPLETE"]  # fmt: skip
    begun = {json.dumps(t.user_attrs[study.CONFIGURATION], sort_keys=True)
             for t in held.trials if study.CONFIGURATION in t.user_attrs}  # fmt: skip
    study.close(held)
    return {
        "kills": kills, "exit_code": code, "trials": trials, "completed": len(told),
        "completed_twice": len(told) - len(set(told)), "lost": len(begun - set(told)),
        "failed_attempts": states.count("FAIL"),
    }  # fmt: skip


def wait() -> dict:
    """Seconds until a worker has its next trial, of a study of a thousand; medians of five."""
    import optuna

    from tfsparse.search import MorphSampler, Space, study, table_7

    space = Space(table_7((28, 28, 1)))
    path = RUNS / "thousand.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)

    def opened(sampler):
        return study.opened(f"sqlite:///{path}", ("error", "bytes"), {}, sampler)

    own, rng, made = opened(MorphSampler(space)), np.random.default_rng(0), []
    for _ in range(STORED):
        values = space.sample(rng)
        filters = sum(v for k, v in values.items() if k.startswith("num-filters-"))
        made.append(
            optuna.create_trial(
                params=values,
                distributions={name: space.ranges[name] for name in values},
                values=[1 / (1 + filters) + 0.01 * rng.random(), filters],
            )
        )
    own.add_trials(made)
    study.close(own)
    own = opened(MorphSampler(space))
    study.asked(own, space)  # reads all trials, fits the kernel
    told = []
    for _ in range(5):
        started = time.perf_counter()
        trial, _ = study.asked(own, space)
        told.append(time.perf_counter() - started)
        study.told(own, trial, [0.5, 100.0], {})
    study.close(own)
    return {"stored": STORED, "seconds": float(np.median(told))}


def main() -> int:
    """Makes the parts that are missing."""
    found = files.read_json(RESULTS) if RESULTS.exists() else {}

    def keep(name, make) -> None:
        if name not in found:
            found[name] = make()
            print(name, found[name], flush=True)
            files.write_json(RESULTS, found)

    keep("wait", wait)
    keep("killed", killed)
    for turn in range(2):
        for workers in (1, 2):
            keep(
                f"seconds of {workers}, turn {turn}",
                lambda w=workers, t=turn: seconds(w, t),
            )
    one, two = (
        np.mean([found[f"seconds of {w}, turn {t}"] for t in range(2)]) for w in (1, 2)
    )
    found["times faster"] = float(one / two)
    files.write_json(RESULTS, found)
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
