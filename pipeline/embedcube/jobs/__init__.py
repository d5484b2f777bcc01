"""Where tasks run, on this machine or on Slurm: submit, status, cancel, doctor, pilot, profile."""
