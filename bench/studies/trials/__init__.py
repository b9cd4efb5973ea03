"""What the studies of `make evidence` and `make evidence-related` share."""
