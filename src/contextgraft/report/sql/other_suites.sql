-- Suites that the report has no section of its own for: mean score by task, metric and length, with n and the standard
-- deviation among samples. `share` is true where all scores of a suite are from 0 to 1: the mean is then a share. Nats of
-- long_perplexity are never one. Where models have other settings or references, the metric names them: scores of one model with
-- several are an error (prompt_sets.sql), those of several models are not comparable.
WITH scored AS (
    SELECT *,
           CASE WHEN role = 'base' THEN model_digest END AS base,
           suite <> 'long_perplexity' AND coalesce(min(score) OVER (PARTITION BY suite) >= 0 AND max(score) OVER (PARTITION BY suite) <= 1, true) AS share,
           min(setting) OVER (PARTITION BY suite) <> max(setting) OVER (PARTITION BY suite) AS several_settings,
           suite = 'long_perplexity' AND min(reference_digest) OVER (PARTITION BY suite) <> max(reference_digest) OVER (PARTITION BY suite) AS several_references
    FROM placed
    WHERE suite NOT IN ('needle', 'ruler', 'skill', 'perplexity', 'divergence')
)
SELECT role, target, base, rank, scale, suite, task, length, share,
       concat_ws(', ', nullif(scoring, ''), CASE WHEN several_settings THEN setting END,
                 CASE WHEN several_references THEN 'reference ' || left(reference_digest, 8) END) AS scoring,
       count(*) FILTER (status = 'ok') AS n,
       CAST(coalesce(sum(score) FILTER (status = 'ok'), 0) AS DOUBLE) AS hits,
       coalesce(stddev_samp(score) FILTER (status = 'ok'), 0) AS deviation,
       count(*) FILTER (status = 'truncated') AS truncated,
       count(*) FILTER (status = 'skipped') AS skipped,
       count(*) FILTER (status = 'failed') AS failed,
       min(reason) FILTER (status <> 'ok') AS reason,
       min(prompt_tokens) AS shortest,
       max(prompt_tokens) AS longest
FROM scored
GROUP BY ALL
ORDER BY ALL
