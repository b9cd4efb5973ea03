"""The round loop and its checkpoints: `local` in one process."""
