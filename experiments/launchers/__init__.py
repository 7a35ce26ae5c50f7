"""Ways to start planned runs: each module has `run(runs, folder, **settings)` and `plan`."""
