"""Shows results as tables, a picture and comparisons, and handles their files."""
