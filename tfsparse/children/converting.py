"""The child that turns SavedModels into TFLite files."""

from __future__ import annotations

import os

from tfsparse.children import process


def main() -> None:
    """Loads TensorFlow, then converts what it is asked to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.lite.TFLiteConverter.from_saved_model  # noqa: B018  (loads what is lazy, ahead)
    process.serve(convert)


def convert(request: dict) -> dict:
    """Makes a TFLite file.

    Args:
        request: The folder `saved_model`; the file of samples `calibration` and the names of
            their `inputs`, or None for a float file; `out`, the file to write.

    Returns:
        Its `bytes`.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(request["saved_model"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if request["calibration"]:
        arrays = process.read_arrays(request["calibration"])
        data = dict(zip(request["inputs"], arrays, strict=True))

        def representative():
            for number in range(len(arrays[0])):
                yield {name: x[number : number + 1] for name, x in data.items()}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    content = converter.convert()
    with open(request["out"], "wb") as file:
        file.write(content)
    return {"bytes": len(content)}


if __name__ == "__main__":
    main()
