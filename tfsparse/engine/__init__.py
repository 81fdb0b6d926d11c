"""The engine: a run is a list of stages, gone through by one runner."""
