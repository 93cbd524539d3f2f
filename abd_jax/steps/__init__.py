"""What is compiled: the steps of student and generator, what they are built from and what they are given."""
