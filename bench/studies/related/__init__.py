"""The related methods against each other and against baselines, in the tasks that they are for."""
