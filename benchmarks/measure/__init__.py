"""The measuring code of the parts: calls, times, the truth, and the environment."""
