"""Prompts and edits go to a server that steers, continuations come back; imported only where a recipe names one."""
