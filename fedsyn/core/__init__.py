"""What federation is made of: payloads, batches of a cohort, stacked optimisers, aggregation."""
