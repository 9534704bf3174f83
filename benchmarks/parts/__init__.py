"""The parts of `python benchmarks`: each measures one thing and tells it."""
