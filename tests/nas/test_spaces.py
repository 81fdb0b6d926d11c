"""Spaces of cells: what a supernet holds, what is left of it, and networks made of that."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from conformance import models

import tfsparse
from tfsparse import files, methods, nas, train
from tfsparse.engine import context, filling, settings
from tfsparse.methods import partitions
from tfsparse.nas import spaces


def small(name: str, cells: int = 3):
    space = nas.SPACES[name]
    return nas.Space(name, space.kinds, cells, filters=4, stem_strides=2)


@pytest.mark.parametrize("name", nas.SPACES)
def test_a_supernet_holds_every_candidate(name):
    space = small(name)
    model = space.supernet((16, 16, 1), 10)
    found = nas.genotype_of(model)
    for kind, nodes in space.kinds.items():
        for own, node in zip(found[kind], nodes, strict=True):
            assert set(own) == set(node)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    inside = [x for x in norms if x.name != "stem_bn"]
    assert inside and not any(x.scale or x.center for x in inside)


def test_edges_of_s1_are_those_of_its_code():
    assert [len(node) for node in spaces.S1["normal"]] == [4, 6, 8, 10]
    assert spaces.S1["normal"][0] == (
        ("skip_connect", 0), ("dil_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 1),
    )  # fmt: skip
    assert spaces.S1["reduction"][3][-2:] == (("skip_connect", 4), ("dil_conv_5x5", 4))
    assert set(spaces.S1["normal"][3][-4:]) == {
        ("dil_conv_3x3", 3), ("dil_conv_5x5", 3), ("dil_conv_3x3", 4), ("dil_conv_5x5", 4),
    }  # fmt: skip


def test_darts_has_fourteen_edges_of_seven_operations():
    for nodes in nas.SPACES["darts"].kinds.values():
        assert [len(node) for node in nodes] == [14, 21, 28, 35]


# Groups ------------------------------------------------------------------------------------


def test_cells_of_a_kind_share_their_operations():
    space = nas.Space("mine", spaces.every(("conv_3x3", "skip_connect"), 2), 4, 4, 2)
    model = space.supernet((16, 16, 1), 10)
    method = methods.find("gsparsity")(partition="operation", shared="normal,reduction")
    groups = tfsparse.find_groups(model, ("branch",))
    prepared = method.prepare(model, groups)
    found = tfsparse.find_groups(prepared, ("branch",))
    ignore = ["stem*", "*_pre?*", "logits*"]
    alone = partitions.operations(prepared, found, ignore)
    shared = partitions.shared(alone, ["normal", "reduction"])
    # Two kinds, nodes of two and three sources, two operations on each.
    assert shared.groups == len(shared.names) == 2 * (2 + 3) * 2
    assert alone.groups > shared.groups
    by_operation = {}
    for path, labels in shared.labels.items():
        name = path.split("/")[0]
        kind = name[: len("normal") if name.startswith("normal") else len("reduction")]
        by_operation.setdefault(
            (kind, name.split("_", 1)[1].rsplit("/")[0]), set()
        ).add(int(labels.flat[0]))
    assert all(len(labels) == 1 for labels in by_operation.values())
    values = {v.path: np.asarray(v) for v in prepared.trainable_variables}
    norms = {p: np.square(values[p]).sum() for p in shared.labels}
    conv = [p for p in norms if "node2_from0_conv_3x3/" in p and p.startswith("normal")]
    assert len(conv) == 2  # cells 1 and 4; 2 and 3 halve
    label = int(shared.labels[conv[0]].flat[0])
    expected = np.sqrt(sum(norms[p] for p in conv))
    assert shared.norms(values)[label] == pytest.approx(expected, rel=1e-6)


def test_prefixes_that_fit_nothing_are_refused():
    model = small("s2").supernet((16, 16, 1), 10)
    groups = tfsparse.find_groups(model, ("branch",))
    found = partitions.operations(model, groups)
    with pytest.raises(ValueError, match="`shared` must be prefixes.*'odd'"):
        partitions.shared(found, ["normal", "odd"])
    with pytest.raises(ValueError, match="`shared` must be empty unless"):
        methods.find("gsparsity")(shared="normal")


# What is left ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s1", "mcu_cells"])
def test_a_genotype_is_read_off_the_stripped_net_and_built_anew(name):
    """Some operations die in all cells of a kind; outputs stay those of the masked one."""
    space = small(name)
    model = models.randomise(space.supernet((16, 16, 1), 10), seed=1)
    rng = np.random.default_rng(0)
    keep, whole, expected = {}, nas.genotype_of(model), {}
    for group in tfsparse.find_groups(model, ("branch",)):
        if not group.frozen:
            stays = rng.random(group.size) < 0.5
            stays[0] = True
            keep[group.name] = stays
            kind = "normal" if group.name.startswith("normal") else "reduction"
            node = int(group.name.split("_node")[1][0])
            own = space.kinds[kind][node - 2]
            added = {c for c, alive in zip(own, stays, strict=True) if alive}
            expected.setdefault((kind, node), set()).update(added)
    stripped = tfsparse.strip(model, keep)
    x = rng.normal(size=(4, 16, 16, 1)).astype("float32")
    masked = tfsparse.mask(model, keep)
    np.testing.assert_allclose(stripped(x), masked(x), rtol=1e-4, atol=1e-4)
    found = nas.genotype_of(stripped)
    for kind, nodes in found.items():
        for own, all_ in zip(nodes, whole[kind], strict=False):
            assert set(own) <= set(all_)
    left = {
        (kind, number): set(node)
        for kind, nodes in found.items()
        for number, node in enumerate(nodes, 2)
    }
    # What only dead operations read goes, too: no more than what was kept is left.
    assert all(own <= expected[key] for key, own in left.items())
    assert sum(map(len, left.values())) >= 0.8 * sum(map(len, expected.values()))


def test_a_network_of_a_genotype():
    genotype = {
        "normal": [[["conv_3x3", 0], ["skip_connect", 1]], [["sep_conv_3x3", 2]]],
        "reduction": [[["max_pool_3x3", 0]], [["conv_1x1", 1], ["skip_connect", 2]]],
    }
    again = json.loads(json.dumps(genotype))
    wide = nas.built(again, (28, 28, 1), 10, count=5, filters=8, stem_strides=2)
    narrow = nas.built(again, (28, 28, 1), 10, count=3, filters=4, stem_strides=2)
    assert wide.count_params() > 3 * narrow.count_params()
    assert wide(np.zeros((2, 28, 28, 1))).shape == (2, 10)
    for broken, sentence in {
        "kind": "`genotype` must hold normal and reduction cells. Received: \\['normal'\\]",
        "node": "`genotype` must have operations, and none that reads a node without any",
        "operation": "An operation must be one of .* Received: 'magic'",
        "source": "A source of node 2 must be a state before it. Received: 2",
    }.items():
        own = json.loads(json.dumps(genotype))
        if broken == "kind":
            del own["reduction"]
        if broken == "node":
            own["normal"][0] = []  # which the next one reads
        if broken == "operation":
            own["normal"][0][0][0] = "magic"
        if broken == "source":
            own["normal"][0][0][1] = 2
        with pytest.raises(ValueError, match=sentence):
            nas.built(own, (28, 28, 1), 10, 3, 4)
    told = {
        kind: tuple(tuple(sorted(map(tuple, node))) for node in nodes)
        for kind, nodes in genotype.items()
    }
    for model in (wide, narrow):
        found = nas.genotype_of(model)
        assert {k: tuple(tuple(sorted(n)) for n in v) for k, v in found.items()} == told
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must be a supernet"):
        nas.genotype_of(plain)


def test_a_node_that_died_is_left_out():
    """Its operations are gone in every cell of the kind; what is left is built as well."""
    model = small("mcu_cells").supernet((16, 16, 1), 10)
    groups = tfsparse.find_groups(model, ("branch",))
    keep = {
        g.name: np.arange(g.size) == 4  # the identity of one input
        for g in groups
        if g.name.startswith(("normal", "reduction")) and not g.frozen
    }
    found = nas.genotype_of(tfsparse.strip(model, keep))
    empty = {kind: ((), nodes[1]) for kind, nodes in found.items()}
    again = nas.built(empty, (16, 16, 1), 10, count=3, filters=4)
    assert nas.genotype_of(again) == empty
    with pytest.raises(ValueError, match="`genotype` must have operations"):
        nas.built({**empty, "normal": ((), ())}, (16, 16, 1), 10, 3, 4)


@pytest.mark.slow
def test_the_main_job_searches(tmp_path):
    """A supernet is a model, a search the sparse stage: operations die in all cells alike."""
    folder = tmp_path / "run"
    code = train.main(
        ["train", "--data=digits", "--model=mcu_cells", "--width=0.5", "--method=gsparsity",
         "--partition=operation", "--shared=normal,reduction",
         "--ignore=stem*,*_pre?*,logits*", "--strength=2", "--epochs=4",
         "--shrink_epochs=4", "--fine_tune_epochs=1", "--formats=keras",
         "--tensorboard=false", "--preflight=false", f"--workdir={folder}"]
    )  # fmt: skip
    assert code == 0
    report = files.read_json(folder / "report.json")
    stages = {row["name"]: row for row in report["stages"]}
    assert stages["sparse"]["accuracy"] == stages["stripped"]["accuracy"]
    assert stages["stripped"]["params"] < report["dense_cost"]["params"]
    model = keras.saving.load_model(folder / "model.keras")
    found = nas.genotype_of(model)
    whole = nas.SPACES["mcu_cells"].kinds
    assert sum(map(len, found["normal"])) < sum(map(len, whole["normal"]))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gsparsity", "bayesnas"])
def test_a_number_of_operations_is_a_target(tmp_path, method):
    """The penalty alone takes as many as are asked for, each kind's counted once."""
    folder, path = tmp_path / "run", tmp_path / "supernet.keras"
    space = nas.Space("mine", spaces.every(("conv_3x3", "skip_connect"), 2), 2, 4)
    space.supernet((8, 8, 1), 10).save(path)
    own = ["--shared=reduction", "--target=operations=4", f"--model={path}"]
    if method == "gsparsity":
        own += [
            "--partition=operation",
            "--ignore=stem*,*_pre?*,logits*",
            "--strength=0.5",
        ]
    else:
        own += ["--strength=0.03", "--loop_epochs=1"]
    code = train.main(
        ["train", "--data=digits", f"--method={method}", *own, "--epochs=6",
         "--shrink_epochs=5", "--fine_tune_epochs=1", "--formats=keras", "--tensorboard=false",
         "--preflight=false",
         f"--workdir={folder}"]
    )  # fmt: skip
    assert code == 0
    report = files.read_json(folder / "report.json")
    (row,) = report["target"]
    found = nas.genotype_of(keras.saving.load_model(folder / "model.keras"))
    assert row["measure"] == "operations" and row["bound"] == 4
    assert row["left"] == sum(len(node) for nodes in found.values() for node in nodes)
    assert 1 <= row["left"] < 10


@pytest.mark.slow
def test_architecture_and_kernels_in_one_run(tmp_path):
    """A second method prunes the units of what the search left; a killed run goes on."""
    folder, path = tmp_path / "run", tmp_path / "supernet.keras"
    space = nas.Space("mine", spaces.every(("conv_3x3", "skip_connect"), 1), 1, 8)
    space.supernet((8, 8, 1), 10).save(path)
    given = ["train", "--data=digits", "--method=bayesnas", f"--model={path}",
             "--strength=0.01", "--loop_epochs=1", "--epochs=3", "--shrink_epochs=2",
             "--prune=gsparsity", "--prune_target=params=0.5", "--prune_epochs=4",
             "--fine_tune_epochs=1", "--formats=keras", "--tensorboard=false",
             "--preflight=false", f"--workdir={folder}"]  # fmt: skip
    fit, calls = context.RunContext.fit_epoch, []

    def interrupted(self, model, name, *more):
        calls.append(name)
        if len(calls) == 6:  # the third epoch of the second method
            raise KeyboardInterrupt
        return fit(self, model, name, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.RunContext, "fit_epoch", interrupted)
        assert train.main(given) == 2
    assert train.main([*given, "--resume"]) == 0
    report = files.read_json(folder / "report.json")
    rows = {row["name"]: row for row in report["stages"]}
    assert [*rows] == ["sparse", "stripped", "pruned", "finetuned"]
    assert rows["pruned"]["params"] <= 0.5 * rows["stripped"]["params"]
    assert rows["finetuned"]["params"] == rows["pruned"]["params"]
    assert len(report["method"]["prune_history"]) == 4


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--prune=legr"],
            "`prune` must be a method of the package that shrinks",
        ),
        (["--prune=odd"], "`method` must be one of"),
        (
            ["--prune_epochs=6"],
            "`prune_target` and `prune_epochs` must come with",
        ),
        (["--prune=gsparsity", "--prune_target="], "`prune_target` must name"),
    ],
)
def test_second_methods_that_cannot_be(flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings.parse(["--method=bayesnas", *flags])


def test_operations_are_counted_by_kind_or_by_input():
    model = small("mcu_cells").supernet((16, 16, 1), 10)
    nodes = [node for own in nas.SPACES["mcu_cells"].kinds.values() for node in own]
    assert filling.operations(model) == sum(map(len, nodes)) == 50
    image = keras.Input((4,))
    one = keras.layers.Add()(
        [keras.layers.Dense(4)(image), keras.layers.Dense(4)(image)]
    )
    plain = keras.Model(image, keras.layers.Add()([one, image]))
    assert filling.operations(plain) == 3  # a sum of others is none of its own
    with pytest.raises(ValueError, match="operations only where a method's penalty"):
        tfsparse.prune(plain, {"operations": 0.5})


CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TWO_STEPS = {
    "digits_gsparsity_cells": (8, 8, 1), "digits_bayesnas_cells": (8, 8, 1),
    "mnist_gsparsity_cells": (28, 28, 1), "mnist_bayesnas_cells": (28, 28, 1),
    "fashion_gsparsity_cells": (28, 28, 1), "fashion_bayesnas_cells": (28, 28, 1),
    "fashion_bayesnas_tree": (28, 28, 1), "cifar10_gsparsity_darts": (32, 32, 3),
    "cifar100_gsparsity_darts": (32, 32, 3), "cifar10_gsparsity_bench201": (32, 32, 3),
    "cifar10_bayesnas_darts": (32, 32, 3), "cifar10_bayesnas_tree": (32, 32, 3),
    "imagenet_gsparsity_darts": (28, 28, 3),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_STEPS)
def test_a_flagfile_takes_two_steps(name, tmp_path):
    """On made pictures of its shape; the large spaces with three of their cells."""
    shape = TWO_STEPS[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, *shape)).astype("uint8")
    y = np.array([0, 1] * 4)
    made = {"x_train": x[:4], "y_train": y[:4], "x_val": x[4:6], "y_val": y[4:6]}
    np.savez(tmp_path / "made.npz", **made, x_test=x[6:], y_test=y[6:])
    lines = dict(
        line.removeprefix("--").split("=", 1)
        for line in (CONFIGS / f"{name}.flags").read_text().splitlines()
        if line.startswith("--")
    )
    if lines["model"] == "darts":  # eight cells are traced for minutes
        space = dataclasses.replace(nas.SPACES["darts"], cells=3, filters=4)
        space.supernet(shape, 2).save(tmp_path / "three.keras")
        lines["model"] = str(tmp_path / "three.keras")
    for key in ("strategy", "validation", "image_size", "target"):
        lines.pop(key, None)
    lines |= {"data": str(tmp_path / "made.npz"), "batch_size": "2", "passes": "1",
              "epochs": "1", "shrink_epochs": "1", "formats": "keras",
              "tensorboard": "false", "preflight": "false",
              "workdir": str(tmp_path / "run")}  # fmt: skip
    lines["fine_tune_epochs"] = str(min(1, int(lines.get("fine_tune_epochs", 5))))
    if lines["method"] == "bayesnas":
        lines["loop_epochs"] = "1"
    assert train.main(["train", *(f"--{k}={v}" for k, v in lines.items())]) == 0
    report = files.read_json(tmp_path / "run" / "report.json")
    assert len(report["method"]["history"]) == 1


def test_every_search_has_its_test():
    searches = {
        path.stem
        for path in CONFIGS.glob("*.flags")
        if "--partition=operation" in (text := path.read_text())
        or "--method=bayesnas\n" in text
    }
    assert searches - {"darts_v2_gsparsity"} == TWO_STEPS.keys()
