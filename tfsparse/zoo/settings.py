"""What a user can set about the network that a run begins with."""

from __future__ import annotations

from tfsparse import options


@options.record
class Model(options.Options):
    """The network that a run begins with."""

    part = "Network"

    model: str = options.field(
        "auto",
        "Name of a network of the zoo, a .keras file, or package.module:function. auto is "
        "mcu_cnn for pictures, mcu_tcn for series, mlp for tables, and autoencoder where the "
        "input itself is predicted.",
    )
    width: float = options.field(
        1.0,
        "Multiplies the units of every hidden layer of a network of the zoo.",
        above=0,
    )
    hidden: tuple[int, ...] = options.field(
        (), "Units of each hidden layer of the network mlp, such as 24,16.", low=1
    )
