# The whole study, from the base to the page: `snakemake --cores all` here at the root.
# The configuration is config/config.yaml, or the file given with --configfile.
include: "workflow/Snakefile"


# An included file cannot set the default target of the including one.
rule default:
    default_target: True
    input:
        rules.all.input,
