"""What PARK costs, measured beside the pools and pipes that it must stand up to: ``python -m benchmarks``."""
