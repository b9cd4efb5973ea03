"""CCL, collaborative contrastive learning."""
