"""Rows -> numbers: item scores, cells, stacking effects, verdicts, warnings.

Pure functions of data frames: no files, no models, and the same bits for the same rows in any order.
items -> cells, effects -> stacking -> verdict; reliability, placebo, fairness, power and warn stand beside them.
"""
