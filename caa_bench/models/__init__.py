"""A model by name -> loaded weights, tokenizer, token ids of a conversation and its first steered position."""
