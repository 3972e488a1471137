"""Matrices out of tensors, and their singular values: streamed, merged, certified. Knows no module, file or figure."""
