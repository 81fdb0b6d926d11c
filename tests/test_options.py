"""Settings as records, and as flags: what fields take, what they refuse, what help says."""

from __future__ import annotations

import dataclasses
import doctest
import subprocess
import sys
import time
from typing import Optional

import numpy as np
import pytest

from tfsparse import budgets, flags, methods, numerics, options, records
from tfsparse.deploy import criteria
from tfsparse.engine import settings, stage


@options.record
class Kitchen(options.Options):
    """Where things are cooked.

    Raises:
        ValueError: Something burns.
    """

    part = "The kitchen"

    heat: float = options.field(0.5, "How hot it is.", above=0, high=1)
    pots: int = options.field(2, "How many pots there are.", low=1)
    gas: bool = options.field(False, "Whether it burns gas.")
    cook: str | None = options.field(None, "Who cooks.")
    style: str = options.field("plain", "How it is cooked.", choices=("plain", "rich"))
    sizes: tuple[int, ...] = options.field((1, 2), "Sizes of pots.", low=1)
    salt: str = options.pairs("", "Salt in dishes.", example="soup=2", low=0)
    leave: str = options.patterns("", "What is left out.", example="egg*")

    def check(self):
        """Checks the pots."""
        if self.pots < len(self.sizes):
            raise ValueError(
                f"`sizes` must fit {self.pots} pots. Received: {self.sizes}."
            )


def test_a_record_is_frozen_and_compares_and_goes_through_json():
    one = Kitchen(0.2, pots=3, sizes=[4], salt={"soup": 2, "jam*": 0.5}, leave=["egg*"])
    assert one.sizes == (4,) and one.salt == "soup=2,jam*=0.5" and one.leave == "egg*"
    assert Kitchen.from_config(one.get_config()) == one
    assert hash(one) == hash(Kitchen.from_config(one.get_config()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.heat = 1.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"heat": 0}, r"`heat` must be in \(0, 1\]. Received: heat=0"),
        ({"heat": 1.5}, r"`heat` must be in \(0, 1\]"),
        ({"heat": float("nan")}, r"`heat` must be in \(0, 1\]"),
        ({"heat": "hot"}, r"`heat` must be a number in \(0, 1\]. Received: heat='hot'"),
        ({"heat": True}, "`heat` must be a number"),
        ({"pots": 2.5}, "`pots` must be a whole number 1 or more"),
        ({"pots": 0}, "`pots` must be 1 or more. Received: pots=0"),
        ({"gas": 1}, "`gas` must be True or False"),
        ({"cook": 3}, "`cook` must be a text"),
        ({"style": "raw"}, r"`style` must be one of \['plain', 'rich'\]"),
        ({"sizes": "12"}, "`sizes` must be a list"),
        ({"sizes": [0]}, "`sizes` must be 1 or more"),
        ({"sizes": [1, 2, 3]}, "`sizes` must fit 2 pots"),
        ({"salt": "soup"}, "`salt` must be a list such as soup=2. Received: 'soup'"),
        ({"salt": "soup=-1"}, "`salt`, in 'soup=-1': must be 0 or more"),
        ({"salt": "a=1,a=2"}, "`salt` must name a once"),
        ({"salt": 3}, "`salt` must be a list such as soup=2"),
        ({"leave": 3}, "`leave` must be a list such as"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Kitchen(**arguments)


def test_numbers_of_numpy_are_numbers():
    one = Kitchen(heat=np.float32(0.5), pots=np.int64(3), gas=np.bool_(True))
    assert (one.heat, one.pots, one.gas) == (0.5, 3, True)
    assert [type(x) for x in (one.heat, one.pots, one.gas)] == [float, int, bool]


def test_the_docstring_tells_every_field_once():
    text = Kitchen.__doc__
    assert text.index("Args:") < text.index("Raises:")
    for one in options.fields_of(Kitchen):
        assert text.count(f"        {one.name}: ") == 1
    assert "How hot it is. (in (0, 1]; default 0.5)" in " ".join(text.split())


def test_flags_are_the_fields():
    line = ["--heat=0.1", "--gas", "--sizes=3,4", "--cook=me", "--salt=soup=2,jam=1"]
    given, rest = flags.read([*line, "a"], [Kitchen], positional=["where"])
    assert rest == ["a"]
    assert Kitchen(**given[Kitchen]) == Kitchen(
        0.1, gas=True, sizes=(3, 4), cook="me", salt="soup=2,jam=1"
    )
    assert flags.read(["--nogas", "--cook="], [Kitchen])[0][Kitchen] == {
        "gas": False,
        "cook": None,
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["--heat=warm"], "`heat` must be a number. Received: --heat=warm"),
        (["--pots=2.5"], "`pots` must be a whole number"),
        (["--sizes=1,b"], "`sizes` must be a list of whole numbers"),
        (["--oven=1"], "Unknown command line flag 'oven'"),
        (["--plates=1"], "`--plates` must be left out: it belongs to the cupboard"),
        (["stray"], "must be nothing but --flags. Received: 'stray'"),
        (["--heat=0.1", "--heat=0.2"], "`--heat` must stand there once"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(line, sentence):
    def belongs(name):
        return "it belongs to the cupboard" if name == "plates" else None

    with pytest.raises(ValueError, match=sentence):
        flags.read(line, [Kitchen], belongs, once=True)


def test_flagfiles_stand_where_they_are_named(tmp_path):
    path = tmp_path / "a.flags"
    path.write_text("# a comment\n--heat=0.3\n--pots=4\n")
    line = flags.expanded(["--pots=9", f"--flagfile={path}", "--heat=0.9"])
    given, _ = flags.read(line, [Kitchen])
    assert given[Kitchen] == {"pots": 4, "heat": 0.9}
    assert flags.value_of("heat", line, "none") == "0.9"
    assert flags.value_of("cook", line, "none") == "none"
    assert flags.value_of("cook", ["--cook", "me"], "none") == "me"
    with pytest.raises(ValueError, match=r"gone\.flags"):
        flags.expanded(["--flagfile=gone.flags"])


def test_a_page_of_help_shows_every_flag_with_its_sentence():
    page = flags.page("Cooks.", [Kitchen], "Enjoy.")
    assert page.startswith("Cooks.\n\nThe kitchen:\n") and page.endswith("Enjoy.\n")
    assert max(map(len, page.splitlines())) <= flags.WIDTH
    for one in options.fields_of(Kitchen):
        assert f"  --{one.name}=" in page
        assert one.metadata["rule"].help.split()[0] in page


@pytest.mark.parametrize("module", [options, budgets])
def test_examples_run(module):
    failed, tried = doctest.testmod(module)
    assert failed == 0 and tried


def test_words_of_two_rooms_agree():
    assert records.LOG_ALPHA_LIMIT == numerics.LIMIT
    assert set(records.CRITERIA) == set(criteria.CRITERIA)


# The command line of a run ------------------------------------------------------------


def quick(*arguments):
    """A command in a process of its own, and whether it loaded Keras or TensorFlow."""
    code = (
        "import sys\nfrom tfsparse.cli import main\ncode = main.main(sys.argv[1:])\n"
        "sys.stderr.write(str(sorted({'keras', 'tensorflow'} & set(sys.modules))))\n"
        "sys.exit(code)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    return done, time.perf_counter() - started


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--help"], 0, "The method shrinknets:"),
        (["train", "--method=gsparsity", "--help"], 0, "The method gsparsity:"),
        (["train", "--no_such=1"], 2, "Unknown command line flag 'no_such'"),
        (["train", "--method=gsparsity", "--gamma=1"], 2, "it belongs to shrinknets"),
        (["train", "--method=magic"], 2, "`method` must be one of"),
        (["train", "--method=none", "--trials=3"], 2, "it belongs to the stage sparse"),
        (["prune", "--help"], 0, "--criterion=l2"),
        (["strip", "--help"], 0, "--tolerance=0"),
        (["sensitivity", "--help"], 0, "--remains=0.75,0.5,0.25"),
        (["export", "--help"], 0, "--formats=keras"),
        (["--help"], 0, "sensitivity"),
        (["fly"], 2, "The command must be one of"),
        (["strip"], 2, "The arguments must be MODEL SMALL. Received: 'none'"),
    ],
)
def test_help_and_mistakes_answer_without_keras(arguments, code, words):
    done, _ = quick(*arguments)
    assert done.returncode == code
    assert words in (done.stdout if code == 0 else done.stderr)
    assert done.stderr.endswith("[]"), "Keras was loaded to say so"


def test_help_of_a_method_shows_its_settings_and_no_other_methods():
    page = settings.help_of(["--method=sparse_vd"])
    assert "--layer_thresholds=" in page and "--epochs=20" in page
    for other in ("--eps=", "--form=", "--tail=", "--loop_epochs="):
        assert other not in page
    plain = settings.help_of(["--method=none"])
    assert "--strength=" not in plain and "--trials=" not in plain
    assert "--epochs=20" in plain


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.at_all:Thing", "must name a class that can be imported"),
        ("tfsparse.options:Options", "must name a subclass of tfsparse.methods.Method"),
        ("tfsparse.methods:Method", "must be a class that defines"),
    ],
)
def test_a_class_that_is_no_method_is_refused(name, sentence):
    with pytest.raises(ValueError, match=f"`method` {sentence}"):
        settings.parse([f"--method={name}"])


def test_stored_settings_never_import_a_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    with pytest.raises(ValueError, match="stored settings"):
        settings.Settings.from_json({"method": "evil:Method"})
    with pytest.raises(ValueError, match="must be among its flags"):
        settings.Settings.from_json({"method": "gsparsity", "gamma": 0.5})


# What a user's own classes trip on -------------------------------------------------------


def test_numbers_in_texts_are_exact():
    assert options.as_text({"macs": 1234567.0}) == "macs=1234567.0"
    assert options.written(0.1 + 0.2) == "0.30000000000000004"
    chosen, _ = settings.parse(["--target=macs=1234567"])
    assert settings.Settings.from_json(chosen.to_json()) == chosen


def test_a_field_that_is_no_setting_is_refused_as_the_class_is_made():
    with pytest.raises(TypeError, match="must be made by options.field.*extra"):

        @options.record
        class Wrong(options.Options):
            """Wrong."""

            extra: int = 3

    with pytest.raises(TypeError, match="A setting must be of bool.*list"):

        @options.record
        class Other(options.Options):
            """Wrong, too."""

            sizes: list[int] = options.field(None, "Sizes.")


def test_optional_numbers_are_settings():
    @options.record
    class Maybe(options.Options):
        """Perhaps a number."""

        limit: Optional[float] = options.field(None, "A limit.", above=0)  # noqa: UP045

    assert Maybe().limit is None and Maybe(2).limit == 2.0
    given, _ = flags.read(["--limit=3"], [Maybe])
    assert Maybe(**given[Maybe]).limit == 3.0
    with pytest.raises(ValueError, match="`limit` must be positive"):
        Maybe(0)


def toy(**body):
    """A method's class, made on the spot."""

    def prepare(self, model, groups):
        return model

    def keep(self, model, groups, tools=None):
        return {}

    given = {"prepare": prepare, "keep": keep, "__module__": __name__, **body}
    return type("Toy", (methods.Method,), given)


def test_a_name_is_taken_once():
    with pytest.raises(
        TypeError, match="`name` of a method must be its own.*gsparsity"
    ):
        toy(name="gsparsity")
    with pytest.raises(TypeError, match="`name` of a stage must be its own.*strip"):
        type("Strip", (stage.Stage,), {"name": "strip", "__module__": __name__})
    assert methods.find("gsparsity") is methods.GSparsity


def test_a_hook_that_nobody_calls_is_refused():
    with pytest.raises(TypeError, match="must not define callbacks"):
        toy(callbacks=lambda self, model, groups: [])


def test_a_class_that_is_not_whole_is_refused():
    with pytest.raises(ValueError, match="must be a class with a `name`"):
        settings.Settings.of(toy()())
    cls = toy(
        name="toy-of-the-tests",
        __annotations__={"x": "float"},
        x=options.field(1.0, "X."),
    )
    with pytest.raises(ValueError, match="put @tfsparse.options.record above it"):
        methods.check_class(cls)


def test_settings_of_one_name_are_refused():
    cls = options.record(
        toy(
            name="clash-of-the-tests",
            __annotations__={"epochs": "int"},
            epochs=options.field(9, "Epochs."),
        )
    )
    with pytest.raises(ValueError, match="names of their own. Received: 'epochs'"):
        settings.Settings.of(cls())


def test_stages_are_there_once_and_read_what_there_is():
    twice = options.record(toy(name="twice-of-the-tests", stages=("strip", "strip")))
    with pytest.raises(ValueError, match="each stage once"):
        settings.Settings.of(twice())
    reader = type(
        "Reader",
        (stage.Stage,),
        {
            "name": "reader-of-the-tests",
            "inputs": ("dens",),
            "run": lambda self, context, before, **inputs: before,
            "__module__": __name__,
        },
    )
    wrong = options.record(toy(name="reads-of-the-tests", stages=(reader,)))
    with pytest.raises(ValueError, match="`inputs` of stage.*'dens'"):
        settings.Settings.of(wrong())


def test_there_is_one_seed():
    own = settings.Settings.of(methods.ShrinkNets(seed=5))
    assert own.method.seed == own.to_json()["seed"] == 5
    runs = settings.Settings.of(methods.ShrinkNets(), settings.Run(seed=3))
    assert runs.method.seed == 3
    with pytest.raises(ValueError, match="`seed` of the run and of the method"):
        settings.Settings.of(methods.ShrinkNets(seed=5), settings.Run(seed=3))


def test_another_flags_value_is_no_method():
    line = ["--workdir", "--method=none", "--tensorboard", "--method", "gsparsity"]
    chosen, _ = settings.parse(line)
    assert chosen.method == methods.GSparsity()
    assert chosen.to_json()["workdir"] == "--method=none"
