# A rule of two nodes with two processes each, asked for and started as a training of several nodes is.
from contextgraft.config.resources import Request, slurm


rule allreduce:
    output:
        "sum.json",
    log:
        "allreduce.log",
    threads: 1
    resources:
        **slurm(Request(mem_mb=3000, minutes=10, gpus=4, nodes=2)),
    shell:
        "scripts/slurm-torchrun.sh {resources.nodes} 2 {threads} python allreduce.py {output} > {log} 2>&1"
