"""From a trained model to what ships: lower, strip, export, verify."""

from tfsparse.deploy.dead import dead_units
from tfsparse.deploy.encodings import stored_bytes
from tfsparse.deploy.export import export
from tfsparse.deploy.lower import lower
from tfsparse.deploy.strip import mask, strip
from tfsparse.deploy.verify import verify

__all__ = [
    "dead_units",
    "export",
    "lower",
    "mask",
    "stored_bytes",
    "strip",
    "verify",
]
