"""Bytes on disk: atomic files, locks, checksums, names that stay inside their folder, and the one registry."""
