"""What a model costs on a device."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs on a device, counted without running it.

    Attributes:
        params: Elements of every variable of the deployed graph (BatchNorm's four
            included; switches and seed states are not part of it).
        nonzero: The same, zeros left out.
        macs: Multiply-accumulates of one sample.
        weight_bytes: As int8 TFLite stores them: a byte a weight, 4 bytes a bias,
            BatchNorm folded into the layer before it where there is one.
        index_bytes: What feature gathers add (4 bytes an index).
        peak_activation_bytes: Largest sum of live int8 activations, executed in
            the model's order.
        working_memory_1: max over layers of input + weights (SpArSe, eq. 5), bytes.
        working_memory_2: max over layers of input + output (SpArSe, eq. 6), bytes.
    """

    params: int
    nonzero: int
    macs: int
    weight_bytes: int
    index_bytes: int
    peak_activation_bytes: int
    working_memory_1: int
    working_memory_2: int
