"""The parts of gpu_check.py, and what only they need."""
