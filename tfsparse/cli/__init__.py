"""The `tfsparse` command: one subcommand a file; each parses, calls, prints."""
