"""The parts of gpu_check.py, and their own helpers."""
