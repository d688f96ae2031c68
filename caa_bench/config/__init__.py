"""YAML files and `key=value` overrides -> dataclasses, or one line a mistake. Knows nothing of CAA."""
