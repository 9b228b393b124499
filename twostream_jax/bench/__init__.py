"""mode=bench: our times beside those of PyTorch, in interleaved rounds of one run."""
