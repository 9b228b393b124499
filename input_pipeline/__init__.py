"""The host's side: video files in, uint8 batches out. NumPy, OpenCV, Grain and ArrayRecord only; no jax."""
