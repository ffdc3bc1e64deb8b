"""What the package costs, as ratios measured in one run on one machine: `make bench`. Not a test, and not in CI."""
