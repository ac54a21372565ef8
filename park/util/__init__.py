"""Small tools that know nothing of jobs: standard streams, progress in words, notebooks, child processes."""
