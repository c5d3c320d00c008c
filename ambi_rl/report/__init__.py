"""The report of a benchmark: one HTML page with tables, curves and a viewer, from results and pictures."""
