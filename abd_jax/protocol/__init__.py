"""The class-incremental protocol: tasks, metrics and upper bounds. Pure NumPy."""
