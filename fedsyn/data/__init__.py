"""Pairs and files: readers, the embedded data set, partitions, federated preprocessing."""
