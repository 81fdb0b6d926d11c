"""Name or path -> Dataset -> batches."""

from tfsparse.data.batches import AUGMENTATIONS, Batches, parse_augmentation
from tfsparse.data.dataset import Dataset, load
from tfsparse.data.images import Images
from tfsparse.data.sources import samples

__all__ = [
    "AUGMENTATIONS", "Batches", "Dataset", "Images", "load", "parse_augmentation", "samples",
]  # fmt: skip
