"""Plan, batches, rows, artifacts and manifest: a run on disk, so that a stopped one goes on where it was."""
