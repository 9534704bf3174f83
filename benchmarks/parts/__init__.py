"""The parts of `python benchmarks`. Each measures one thing and reports it."""
