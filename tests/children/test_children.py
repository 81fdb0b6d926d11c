"""Children answer, die, and are started again; what ends them ends nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
from keras import layers

import tfsparse
from tfsparse.children import process
from tfsparse.children.process import Child, ChildError
from tfsparse.deploy import interpreters

SERVER = """
import os, signal, sys, time
from tfsparse.children import process

def answer(request):
    if request["do"] == "die":
        sys.stderr.write("last words\\n"); sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if request["do"] == "leave":
        os._exit(3)
    if request["do"] == "sleep":
        time.sleep(60)
    if request["do"] == "raise":
        raise ValueError("so it is")
    print("this is no answer")
    return {"pid": os.getpid(), "did": request["do"]}

process.serve(answer)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "own_server.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = Child("own_server")
    yield one
    one.close()


def test_it_answers_again_and_again(child):
    first, second = (child.ask({"do": name}, 30) for name in ("this", "that"))
    assert (first["did"], second["did"]) == ("this", "that")
    assert first["pid"] == second["pid"] != os.getpid()
    assert child.ask({"do": "raise"}, 30) == {"error": "so it is", "kind": "ValueError"}


def test_a_crash_is_told_and_another_is_started(child):
    before = child.ask({"do": "x"}, 30)["pid"]
    with pytest.raises(ChildError, match="SIGSEGV") as caught:
        child.ask({"do": "die"}, 30)
    assert "last words" in caught.value.said
    assert child.ask({"do": "x"}, 30)["pid"] != before
    with pytest.raises(ChildError, match="exit code 3"):
        child.ask({"do": "leave"}, 30)


def test_it_may_not_take_for_ever(child):
    child.ask({"do": "x"}, 30)
    started = time.monotonic()
    with pytest.raises(ChildError, match="more than 1 seconds"):
        child.ask({"do": "sleep"}, 1)
    assert time.monotonic() - started < 20
    assert child.ask({"do": "after"}, 30)["did"] == "after"


def test_a_child_ends_with_its_parent(tmp_path):
    (tmp_path / "own_server.py").write_text(SERVER)
    code = """
        import os, signal
        from tfsparse.children.process import Child
        print(Child("own_server").ask({"do": "x"}, 30)["pid"], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    root = os.path.dirname(os.path.dirname(tfsparse.__file__))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert _ends(pid)


def _ends(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    until = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.1)
    return not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_interpreters_are_ready_without_tensorflow():
    code = """
        import sys
        import tfsparse.children.interpreting
        print(sorted({"tensorflow", "keras"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_a_converter_that_crashes_leaves_advice_and_python_alive(tmp_path):
    """TensorFlow 2.21's calibrator ends the process on a loop (tensorflow#101050)."""
    model = keras.Sequential(
        [
            keras.Input((10, 6)),
            layers.Masking(),  # with a mask a loop is not unrolled
            layers.GRU(8, name="memory"),
            layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).normal(size=(8, 10, 6)).astype("float32")
    try:
        tfsparse.export(model, str(tmp_path / "a"), x, formats=("tflite_int8",))
    except ValueError as error:  # a later TensorFlow may be able to
        assert "memory cannot be unrolled" in str(error)
        assert os.listdir(tmp_path / "a") == []
    small = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    assert tfsparse.export(small, str(tmp_path), x[:, 0], formats=("tflite_int8",))


def test_any_crash_of_the_converter_is_an_error_with_a_sentence(tmp_path, monkeypatch):
    def crash(request, seconds):
        raise ChildError("it crashed (SIGSEGV)", "")

    monkeypatch.setattr(process.CONVERTER, "ask", crash)
    model = keras.Sequential(
        [keras.Input((10, 6)), layers.LSTM(8, name="memory"), layers.Dense(3)]
    )
    x = np.zeros((4, 10, 6), "float32")
    with pytest.raises(ValueError, match="the converter ended.*SIGSEGV"):
        tfsparse.export(model, str(tmp_path), x, formats=("tflite_int8",))
    assert os.listdir(tmp_path) == []


def test_what_the_microcontroller_lacks_stands_in_a_sentence(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.UpSampling2D(2)])
    x = np.random.default_rng(0).uniform(size=(8, 8, 8, 1)).astype("float32")
    files = tfsparse.export(model, str(tmp_path), x, formats=("tflite_int8",))
    row = tfsparse.verify(model, files, x)[-1]
    assert row.artifact == "mcu" and row.samples == 0 and row.argmax_agreement is None
    assert "TILE" in row.note
    with pytest.raises(ValueError, match="TensorFlow Lite Micro.*TILE"):
        interpreters.run_micro(files[0].path, [x])


FORKED = """
    import os, signal, sys
    from tfsparse.children.process import Child, ChildError, serve

    def answer(request):
        if request["do"] == "die":
            sys.stderr.write("last words\\n"); sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        return {"pid": os.getpid(), "parent": os.getppid()}

    child = Child("no_such_module")
    child.fork(lambda: serve(answer))
    reply = child.ask({"do": "x"}, 30)
    assert reply["parent"] == os.getpid() != reply["pid"]
    try:
        child.ask({"do": "die"}, 30)
    except ChildError as error:
        assert "SIGSEGV" in str(error) and "last words" in error.said
    child.fork(lambda: serve(answer))
    print(child.ask({"do": "x"}, 30)["pid"], flush=True)
    if "kill" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["kill", "leave"])
def test_a_copy_of_the_process_answers_dies_and_ends_like_any_child(how):
    code = textwrap.dedent(FORKED)
    done = subprocess.run(
        [sys.executable, "-c", code, how], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (-signal.SIGKILL if how == "kill" else 0), done.stderr
    pid = int(done.stdout)
    assert _ends(pid)
