"""Whether synthesis helps: on real data, over baselines, seeds, ablations and federations."""
