"""Options, inputs, grafts and outputs of `contextgraft evaluate`."""
