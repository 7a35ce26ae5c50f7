"""What faults do to runs: kills, damaged files, full disks. `python -m benchmarks.faults`."""
