"""The parts of `lora_sft`: contrast pairs -> rows of token ids -> targets in the model -> a trained, applied adapter.

`rows` makes the training rows, `targets` picks the modules, `training` trains, `watched` tells of it and continues it,
`loss` keeps it to the answer, and `applied` checks what `attach` gives.
"""
