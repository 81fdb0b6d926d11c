"""Networks of cells, as differentiable architecture search finds them."""

from __future__ import annotations

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM

DARTS_V2 = {
    "normal": (
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 1), ("skip_connect", 0)),
        (("skip_connect", 0), ("dil_conv_3x3", 2)),
    ),
    "reduction": (
        (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
        (("max_pool_3x3", 0), ("skip_connect", 2)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
    ),
}
"""Cell type -> nodes -> (operation, input): inputs 0 and 1 are the two cells before,
2 and up the nodes before. Source: DARTS (Liu et al. 2019), genotype DARTS_V2."""


def darts_v2(inputs, outputs: int, width):
    """DARTS-V2 for CIFAR-10: 20 cells, 36 filters at first, 3.3 M parameters.

    Without the auxiliary tower and drop-path of its authors' training.

    Reference: Liu et al. 2019, arXiv:1806.09055; GSparsity, appendix D.
    """
    return _network(inputs, outputs, width(36), 20, (6, 13))


def cells(inputs, outputs: int, width):
    """Three of the same cells for small grey images, 8 filters at first.

    The stem halves the image, the second cell again; 24 operations.
    """
    return _network(inputs, outputs, width(8), 3, (1,), stem_strides=2)


def _network(x, outputs: int, filters: int, count: int, halving, stem_strides: int = 1):
    """A stem, cells of which some halve the image, a pooling, a classifier."""
    stem = layers.Conv2D(
        3 * filters, 3, stem_strides, "same", use_bias=False, name="stem"
    )(x)
    before = last = _norm(stem, "stem")
    halved = False
    for number in range(count):
        halves = number in halving
        filters *= 2 if halves else 1
        name = f"cell{number + 1}"
        new = _cell(name, "reduction" if halves else "normal", before, last, filters,
                    halved)  # fmt: skip
        before, last, halved = last, new, halves
    pooled = layers.GlobalAveragePooling2D(name="pool")(last)
    return layers.Dense(outputs, name="logits")(pooled)


def _cell(name: str, kind: str, before, last, filters: int, halved: bool):
    """One cell: nodes that add two operations each, concatenated."""
    if halved:
        before = _halve(before, filters, f"{name}_pre0")
    else:
        before = _project(before, filters, f"{name}_pre0")
    states = [before, _project(last, filters, f"{name}_pre1")]
    for number, operations in enumerate(DARTS_V2[kind], 2):
        added = []
        for place, (operation, source) in enumerate(operations):
            strides = 2 if kind == "reduction" and source < 2 else 1
            label = f"{name}_node{number}_{place}_{operation}"
            added.append(OPERATIONS[operation](states[source], filters, strides, label))
        states.append(layers.Add(name=f"{name}_node{number}")(added))
    return layers.Concatenate(name=name)(states[2:])


def _norm(x, name: str):
    return layers.BatchNormalization(
        momentum=BN_MOMENTUM, epsilon=1e-5, name=f"{name}_bn"
    )(x)


def _project(x, filters: int, name: str):
    """ReLU, 1x1 convolution, BatchNorm."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    return _norm(layers.Conv2D(filters, 1, use_bias=False, name=name)(x), name)


def _halve(x, filters: int, name: str):
    """Two 1x1 convolutions of stride 2, one of them a pixel further, side by side."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    first, options = filters // 2, {"strides": 2, "use_bias": False}
    one = layers.Conv2D(first, 1, **options, name=f"{name}_even")(x)
    shifted = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
    shifted = layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_shift")(shifted)
    two = layers.Conv2D(filters - first, 1, **options, name=f"{name}_odd")(shifted)
    return _norm(layers.Concatenate(name=f"{name}_join")([one, two]), name)


def _separable(x, filters: int, strides: int, name: str, dilation: int = 1):
    """ReLU, 3x3 depthwise and 1x1 convolution, BatchNorm."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.DepthwiseConv2D(
        3, strides, "same", dilation_rate=dilation, use_bias=False, name=f"{name}_depth"
    )(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_point")(x)
    return _norm(x, name)


def _sep_conv(x, filters: int, strides: int, name: str):
    x = _separable(x, filters, strides, f"{name}_1")
    return _separable(x, filters, 1, f"{name}_2")


def _dil_conv(x, filters: int, strides: int, name: str):
    return _separable(x, filters, strides, name, dilation=2)


def _max_pool(x, filters: int, strides: int, name: str):
    return layers.MaxPooling2D(3, strides, "same", name=name)(x)


def _skip(x, filters: int, strides: int, name: str):
    return x if strides == 1 else _halve(x, filters, name)


OPERATIONS = {
    "sep_conv_3x3": _sep_conv,
    "dil_conv_3x3": _dil_conv,
    "max_pool_3x3": _max_pool,
    "skip_connect": _skip,
}
"""Name -> `(tensor, filters, strides, name) -> tensor`."""
