"""Analysis: inversion, attention maps, pattern drawings, samples."""
