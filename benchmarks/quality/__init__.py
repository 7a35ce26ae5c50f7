"""What models learn here, from finished runs: the pages and tables of docs/results."""
