"""The child that turns SavedModels into TFLite files."""

from __future__ import annotations

import os

from tfsparse.children import process

WHOLE = {
    "int8": ("TFLITE_BUILTINS_INT8", "int8"),
    "int16x8": (
        "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
        "int16",
    ),
}
"""Operators, inputs and outputs of files that hold no floats."""


def main() -> None:
    """Loads TensorFlow, then converts what it is asked to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.lite.TFLiteConverter.from_saved_model  # noqa: B018  (loads what is lazy, ahead)
    process.serve(convert)


def convert(request: dict) -> dict:
    """Makes a TFLite file.

    Args:
        request: The folder `saved_model`; the `kind` of its numbers, `float` or one of
            `records.QUANTISED`; the file of samples `calibration` and the names of their
            `inputs`, which int8 and int16x8 need; `out`, the file to write.

    Returns:
        Its `bytes`.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(request["saved_model"])
    sets, spec = tf.lite.OpsSet, converter.target_spec
    spec.supported_ops = [sets.TFLITE_BUILTINS]
    if request["kind"] != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if request["kind"] == "float16":
        spec.supported_types = [tf.float16]
    if request["kind"] in WHOLE:
        arrays = process.read_arrays(request["calibration"])
        data = dict(zip(request["inputs"], arrays, strict=True))

        def representative():
            for number in range(len(arrays[0])):
                yield {name: x[number : number + 1] for name, x in data.items()}

        operators, numbers = WHOLE[request["kind"]]
        converter.representative_dataset = representative
        spec.supported_ops = [getattr(sets, operators)]
        converter.inference_input_type = getattr(tf, numbers)
        converter.inference_output_type = getattr(tf, numbers)
    content = converter.convert()
    with open(request["out"], "wb") as file:
        file.write(content)
    return {"bytes": len(content)}


if __name__ == "__main__":
    main()
