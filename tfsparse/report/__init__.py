"""Records to JSON, HTML and plots. Computes nothing."""

from tfsparse.report.write import write, write_search

__all__ = ["write", "write_search"]
