"""The one seam to outside HTTP systems, and its real implementation."""
