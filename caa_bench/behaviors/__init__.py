"""A behavior folder -> items, splits and training pairs, or one line a mistake; and the published data."""
