"""Layers whose weights are Gaussian: a mean and a variance for each weight."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfsparse import numerics
from tfsparse.layers import noise

PRIORS = ("log_uniform", "normal")
"""Of sparse variational dropout, and of the weights under Bayesian compression."""

INITIAL_LOG_VARIANCE = {"log_uniform": (-10.0, 0.0), "normal": (-9.0, 0.01)}
"""Mean and deviation of what log variances start at, as in the authors' codes."""


class Variational:
    """What a layer with Gaussian weights has beside its plain twin. A mixin.

    Every weight is N(theta, sigma^2), free parameters theta (`kernel`) and
    log sigma^2 (`log_variance`). Training draws the sums, not the weights (the local
    reparametrisation): with product the twin's matrix product or convolution,
    y = product(x, theta) + sqrt(product(x^2, sigma^2) + 1e-8) * N(0, 1).
    Inference is the twin with the weights that stay. The penalty is strength * KL,
    from the prior.

    log_uniform (sparse variational dropout): sigma^2 = exp(log alpha) theta^2 with
    log alpha in [-8, 8]; a weight stays while log alpha < threshold.
    normal (Bayesian compression): prior N(0, 1), all weights stay, the bias is Gaussian
    too; sigma is at most `largest_deviation`.

    Args:
        *args: Of the twin.
        prior: `log_uniform` or `normal`.
        strength: Weight of the divergence, in units of the loss; a variable, so that
            changing it retraces nothing. 1 / samples for a mean loss.
        threshold: On log alpha; log_uniform only.
        largest_deviation: Bound on sigma; None for none. normal only.
        seed: Of the noise.
        **kwargs: Of the twin.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> layer = VariationalDense(300, activation="relu", strength=1 / 60_000)

    Reference: Molchanov et al. 2017 (arXiv 1701.05369), sections 4.2 to 4.4; Louizos et
    al. 2017 (arXiv 1705.08665), section 4.
    """

    stock_class: type
    """The plain twin, which says how units pass, too."""
    own_arguments = ("prior", "strength", "threshold", "largest_deviation", "seed")
    """What the plain twin does not take."""
    stock_variables = ("kernel", "bias")
    """What the plain twin keeps."""
    cut_alike = {"log_variance": "kernel", "bias_log_variance": "bias"}
    """What loses the same indices as another variable when units leave."""

    def __init__(
        self,
        *args,
        prior: str = "log_uniform",
        strength: float = 0.0,
        threshold: float = 3.0,
        largest_deviation: float | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if prior not in PRIORS:
            raise ValueError(f"`prior` must be one of {PRIORS}. Received: {prior!r}.")
        if not 0 <= strength < np.inf:
            raise ValueError(
                f"`strength` must be a number >= 0. Received: strength={strength}."
            )
        if not -numerics.LIMIT < threshold <= numerics.LIMIT:
            raise ValueError(
                f"`threshold` must be in (-{numerics.LIMIT:g}, {numerics.LIMIT:g}], as log "
                f"alpha is from which a weight goes. Received: threshold={threshold}."
            )
        if largest_deviation is not None and not largest_deviation > 0:
            raise ValueError(
                f"`largest_deviation` must be positive. Received: {largest_deviation}."
            )
        self.prior = prior
        self.initial_strength = float(strength)
        self.threshold = float(threshold)
        self.largest_deviation = largest_deviation
        self.seed = int(seed)
        self.noise = keras.random.SeedGenerator(self.seed)
        noise.table()

    def build(self, input_shape):
        super().build(input_shape)
        rng = np.random.default_rng(self.seed)
        mean, deviation = INITIAL_LOG_VARIANCE[self.prior]

        def start(shape, dtype):
            return ops.cast(rng.normal(mean, deviation, shape), dtype)

        bound = self._bound if self.largest_deviation else None
        self.log_variance = self.add_weight(
            shape=self.kernel.shape,
            name="log_variance",
            initializer=start,
            constraint=bound,
            autocast=False,  # half precision knows no log of a small variance
        )
        # A regularizer, not add_loss: one penalty however often the layer is called.
        self.log_variance.regularizer = self._weights_penalty
        self.log_variance.undecayed = True  # by an optimizer's weight decay
        self.bias_log_variance = None
        if self.prior == "normal" and self.bias is not None:
            self.bias_log_variance = self.add_weight(
                shape=self.bias.shape,
                name="bias_log_variance",
                initializer=start,
                constraint=bound,
                autocast=False,
            )
            self.bias_log_variance.regularizer = self._bias_penalty
            self.bias_log_variance.undecayed = True
        self.strength = self.add_weight(
            shape=(),
            name="strength",
            initializer=keras.initializers.Constant(self.initial_strength),
            trainable=False,
        )

    def _bound(self, log_variance):
        return ops.minimum(log_variance, 2.0 * np.log(self.largest_deviation))

    def log_alpha(self):
        """The log alpha of every weight, of the kernel's shape."""
        return numerics.log_alpha(*self._posterior())

    def variance(self):
        """sigma^2 of every weight, of the kernel's shape."""
        if self.prior == "normal":
            return ops.exp(self.log_variance)
        return numerics.log_uniform_variance(*self._posterior())

    def _posterior(self):
        """Theta and log sigma^2 in the precision of the variables: float16 has no 1e-8."""
        log_variance = ops.convert_to_tensor(self.log_variance)
        # Rounded as `call` reads it: what stays there has to stay everywhere.
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return ops.cast(kernel, log_variance.dtype), log_variance

    def active(self):
        """Which weights stay: bool, of the kernel's shape."""
        if self.prior == "normal":
            return ops.ones_like(self.kernel, dtype="bool")
        return self.log_alpha() < self.threshold

    def divergence(self):
        """The whole layer's divergence from its prior, a scalar."""
        if self.prior == "log_uniform":
            return numerics.log_uniform_divergence(self.kernel, self.log_variance)
        whole = numerics.gaussian_divergence(self.kernel, self.log_variance)
        if self.bias_log_variance is not None:
            whole += numerics.gaussian_divergence(self.bias, self.bias_log_variance)
        return whole

    def _weights_penalty(self, log_variance):
        if self.prior == "log_uniform":
            found = numerics.log_uniform_divergence(self.kernel, log_variance)
        else:
            found = numerics.gaussian_divergence(self.kernel, log_variance)
        return self.strength * found

    def _bias_penalty(self, log_variance):
        return self.strength * numerics.gaussian_divergence(self.bias, log_variance)

    def call(self, inputs, training=False):
        kernel = ops.cast(self.kernel, self.compute_dtype)
        if not training:
            stays = ops.cast(self.active(), self.compute_dtype)
            outputs = self.product(inputs, kernel * stays)
        else:
            variance = self.product(
                ops.square(inputs), ops.cast(self.variance(), self.compute_dtype)
            )
            if self.bias_log_variance is not None:
                own = ops.exp(self.bias_log_variance)
                variance += ops.cast(self._along_channels(own), variance.dtype)
            outputs = self.product(inputs, kernel)
            drawn = noise.normal(ops.shape(outputs), self.noise, outputs.dtype)
            # In float32: half precision has no 1e-8, and no slope of a root at 0.
            spread = ops.sqrt(ops.cast(variance, "float32") + 1e-8)
            outputs += ops.cast(spread, outputs.dtype) * drawn
        if self.bias is not None:
            outputs += ops.cast(self._along_channels(self.bias), outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)

    def product(self, inputs, kernel):
        """The twin's linear map with another kernel, without a bias."""
        return self.convolution_op(inputs, kernel)

    def _along_channels(self, vector):
        """A vector over the output channels, shaped to be added to outputs."""
        if getattr(self, "data_format", "channels_last") == "channels_last":
            return vector
        return ops.reshape(vector, (-1,) + (1,) * self.rank)

    # Dense and convolutions store by hand what they know of.
    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self):
        return {
            **super().get_config(),
            "prior": self.prior,
            "strength": self.initial_strength,
            "threshold": self.threshold,
            "largest_deviation": self.largest_deviation,
            "seed": self.seed,
        }

    # What graph and deploy ask of a house layer ------------------------------------

    def stock_values(self) -> dict[str, np.ndarray]:
        """Variable path -> what the plain twin has there instead."""
        stays = ops.convert_to_numpy(self.active())
        variable: Any = self.kernel  # type: ignore[attr-defined]  # the stock layer's
        return {variable.path: ops.convert_to_numpy(variable) * stays}


@keras.saving.register_keras_serializable("tfsparse")
class VariationalDense(Variational, keras.layers.Dense):
    """A Dense with Gaussian weights; see `Variational`."""

    stock_class = keras.layers.Dense

    def product(self, inputs, kernel):
        return ops.matmul(inputs, kernel)


@keras.saving.register_keras_serializable("tfsparse")
class VariationalConv1D(Variational, keras.layers.Conv1D):
    """A Conv1D with Gaussian weights; see `Variational`."""

    stock_class = keras.layers.Conv1D

    def product(self, inputs, kernel):
        padding = self.padding
        if padding == "causal":
            inputs, padding = ops.pad(inputs, self._compute_causal_padding()), "valid"
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@keras.saving.register_keras_serializable("tfsparse")
class VariationalConv2D(Variational, keras.layers.Conv2D):
    """A Conv2D with Gaussian weights; see `Variational`."""

    stock_class = keras.layers.Conv2D


@keras.saving.register_keras_serializable("tfsparse")
class VariationalDepthwiseConv2D(Variational, keras.layers.DepthwiseConv2D):
    """A DepthwiseConv2D with Gaussian weights; see `Variational`."""

    stock_class = keras.layers.DepthwiseConv2D

    def product(self, inputs, kernel):
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


TWINS = {
    twin.stock_class: twin
    for twin in (
        VariationalDense,
        VariationalConv1D,
        VariationalConv2D,
        VariationalDepthwiseConv2D,
    )
}
"""Plain layer class -> its Bayesian twin."""
