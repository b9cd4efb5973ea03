"""The same federated workload in fedsyn, in a plain loop, in pfl-research and in Flower."""
