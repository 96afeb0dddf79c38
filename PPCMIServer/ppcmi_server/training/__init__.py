"""Training jobs: queued, leased, run in processes of their own, and judged by site."""
