"""The shared-prefix forward engine: capture, score, generate. Knows edits, never CAA."""
