"""Rows in, numbers out: item scores, cells, stacking effects, verdicts, warnings. docs/numbers.md defines them.

Pure functions of data frames: no files, no models, and the same bits for the same rows in any order. `items` makes item
scores, `frames.grouped` the [items, conditions, fits] arrays once a report; every table takes those groups and one
`estimates.Resampling`: `cells`, `stacking` (by `effects` and `verdict`), `reliability`, `answers`, `metrics`.
"""
