"""Measurements. Figures come from pairs or triples taken in turn in one run: compare ratios, not absolute times."""
