"""Where arrays live and how the backend computes."""
