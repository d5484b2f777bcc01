"""index, fit, plan: everything that is decided before anything runs."""
