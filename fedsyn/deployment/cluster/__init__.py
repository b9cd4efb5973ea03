"""What of a federation runs on this machine: a SuperLink and nodes, started, watched, stopped."""
