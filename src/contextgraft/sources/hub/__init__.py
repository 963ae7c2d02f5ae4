"""Models and adapters from and to the hub: pinned to a commit, resumed, verified."""
