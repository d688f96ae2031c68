"""The embedded model: seeded corpus and training -> the weights, tokenizer and planted directions that are shipped."""
