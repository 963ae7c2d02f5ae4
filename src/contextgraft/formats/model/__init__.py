"""A model as readers see it: names of its tensors, its output layer, the files that belong to it."""
