"""Readers of the file formats; each checks sizes before it allocates and raises DataError for anything amiss."""
