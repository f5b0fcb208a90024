"""bbl: what operators and developers type."""
