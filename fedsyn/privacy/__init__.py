"""What can be told of single pairs from what leaves a client: attacks, and how strong they are."""
