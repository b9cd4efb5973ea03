"""CreamFL, contrastive representation ensemble."""
