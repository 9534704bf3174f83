"""Results for people: tables, the picture, comparisons, and the files they lie in."""
