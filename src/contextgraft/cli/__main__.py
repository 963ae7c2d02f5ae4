"""Entry point for torchrun: `torchrun --nproc-per-node 4 -m contextgraft.cli train ...`."""

from contextgraft.cli.main import main

main()
