"""Runs behind the numbers in the documentation; each writes a JSON file under results/."""
