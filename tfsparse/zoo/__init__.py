"""Model builders, one family a file, and the door to a user's own models."""

from tfsparse.zoo.build import MODELS, build, load

__all__ = ["MODELS", "build", "load"]
