"""The paper's diagnosis of a run, from its workdir and its data set: distances, probes, features on a plane, dreams."""
