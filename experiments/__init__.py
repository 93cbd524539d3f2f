"""python -m experiments: the runs behind the numbers in the documentation; their files of results lie in results/."""
