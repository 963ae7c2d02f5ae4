# in: an adapter, a fine-tune    out: data/<study>/grafts/s<seed>/<target>/{r<rank>,theta-only}/
# A temporary graft is deleted when every rule that reads it has run; its record under results/<study>/grafts stays.


rule merge:
    input:
        adapter=PATHS.adapter,
        target=PATHS.target,
    output:
        manifest=PATHS.graft.replace("{kind}", "r{rank}"),
        record=PATHS.graft_record.replace("{kind}", "r{rank}"),
    log:
        PATHS.log("merge/s{seed}/{target}/r{rank}"),
    benchmark:
        PATHS.benchmark("merge/s{seed}/{target}/r{rank}")
    wildcard_constraints:
        target=one_of(STUDY.kept),
    conda:
        "../../envs/contextgraft.yaml"
    threads: THREADS.merge
    resources:
        **requested("merge"),
    params:
        adapter=subpath(input.adapter, parent=True),
        target=subpath(input.target, parent=True),
        scale=1,
        out=subpath(output.manifest, parent=True),
        version=VERSION,
    shell:
        "contextgraft --refusal {params.out:q} merge --adapter {params.adapter:q} --target {params.target:q}"
        " --scale {params.scale} --replace --out {params.out:q} --threads {threads} > {log:q} 2>&1"
        " && cp {params.out:q}/contextgraft.json {output.record:q}"


use rule merge as merge_passing with:
    output:
        folder=temp(directory(PATHS.temporary_graft.replace("{kind}", "r{rank}"))),
        record=PATHS.graft_record.replace("{kind}", "r{rank}"),
    wildcard_constraints:
        target=one_of(STUDY.temporary),
    params:
        out=lambda wildcards, output: f"{output.folder}/r{wildcards.rank}",


# The control: the donor's RoPE settings, the fine-tune's weights unchanged. Adapters of all ranks carry the same RoPE.
use rule merge as theta_only with:
    input:
        adapter=PATHS.adapter.replace("{rank}", str(STUDY.ranks[0])),
        target=PATHS.target,
    output:
        manifest=PATHS.graft.replace("{kind}", "theta-only"),
        record=PATHS.graft_record.replace("{kind}", "theta-only"),
    log:
        PATHS.log("merge/s{seed}/{target}/theta-only"),
    benchmark:
        PATHS.benchmark("merge/s{seed}/{target}/theta-only")
    resources:
        **requested("theta_only"),
    params:
        scale=0,


use rule theta_only as theta_only_passing with:
    output:
        folder=temp(directory(PATHS.temporary_graft.replace("{kind}", "theta-only"))),
        record=PATHS.graft_record.replace("{kind}", "theta-only"),
    wildcard_constraints:
        target=one_of(STUDY.temporary),
    params:
        out=lambda wildcards, output: f"{output.folder}/theta-only",
