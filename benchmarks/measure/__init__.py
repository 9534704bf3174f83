"""How the parts measure: calls, times, what is right, and where it was."""
