"""What torchrun can start: `torchrun --nproc-per-node 4 -m contextgraft.cli train ...`."""

from contextgraft.cli.main import main

main()
