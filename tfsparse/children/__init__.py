"""Converter and interpreters in processes of their own: what ends them ends nothing else.

`process` is the parent's side; `converting` and `interpreting` are what children run.
"""
