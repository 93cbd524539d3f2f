"""The compiled functions of a run: the steps of student and generator, with their components and inputs."""
