"""Records to JSON, HTML and plots. Computes nothing."""

from tfsparse.report.write import write

__all__ = ["write"]
