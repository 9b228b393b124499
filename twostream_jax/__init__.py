"""The device's side: uint8 batches in, scores out."""
