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
    genotype: str = options.field(
        "",
        "A genotype.json that a search wrote: the network is made of its cells, in place of "
        "--model.",
    )
    cells: int = options.field(
        8,
        "Cells of a network of a genotype; those after a third and two thirds halve the "
        "picture.",
        low=1,
    )
    filters: int = options.field(
        16, "Filters of the first cell of a network of a genotype.", low=1
    )
    stem_strides: int = options.field(
        1,
        "Strides of the first convolution of a network of a genotype; 2 halves the picture.",
        low=1,
    )

    def check(self) -> None:
        """Checks that a genotype is not given beside a model, nor its size without it."""
        sizes = ("cells", "filters", "stem_strides")
        chosen = [name for name in self.chosen() if name in sizes]
        if chosen and not self.genotype:
            raise ValueError(
                f"`{chosen[0]}` must be left out without a genotype. Received: "
                f"{chosen[0]}={getattr(self, chosen[0])}."
            )
        if self.genotype and (self.model != "auto" or self.hidden):
            raise ValueError(
                "`model` must be left out with a genotype, which is the model. Received: "
                f"model={self.model!r}, genotype={self.genotype!r}."
            )
