"""What became of runs, read from their folders alone."""
