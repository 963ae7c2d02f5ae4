"""The files of an adapter folder: whether they may be read, and the keys of the weights as entries."""
