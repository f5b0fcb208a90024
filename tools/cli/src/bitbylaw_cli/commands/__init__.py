"""One file per noun an operator says."""
