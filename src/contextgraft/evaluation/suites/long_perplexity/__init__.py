"""LongPPL: the loss on tokens that a reference model predicts well only with the far context."""
