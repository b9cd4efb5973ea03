"""Synthetic pairs: prototypes, generator training on clients, filter and fine-tuning on the server.

Zhang et al., "Generating Synthetic Data for Unsupervised Federated Learning of Cross-Modal
Retrieval", AAAI 2025, reconstructed where the paper leaves the choice open (see docs/synthesis.md).
"""
