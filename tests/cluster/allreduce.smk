# A rule of two nodes with two processes each: resources and start as for a training on several nodes.
from contextgraft.planning.slurm import SlurmRequest


rule allreduce:
    output:
        "sum.json",
    log:
        "allreduce.log",
    threads: 1
    resources:
        **SlurmRequest(mem_mb=3000, minutes=10, gpus=4, nodes=2).resources(),
    shell:
        "scripts/slurm-torchrun.sh {resources.nodes} 2 {threads} python allreduce.py {output} > {log} 2>&1"
