-- Suites that the report has no section of its own for: mean score by task, metric and length, with n and the standard
-- deviation among samples. `share` is true where all scores of a suite are from 0 to 1: the mean is then a share. Nats of
-- long_perplexity are never one.
WITH scored AS (
    SELECT *,
           CASE WHEN role = 'base' THEN model_digest END AS base,
           suite <> 'long_perplexity' AND coalesce(min(score) OVER (PARTITION BY suite) >= 0 AND max(score) OVER (PARTITION BY suite) <= 1, true) AS share
    FROM placed
    WHERE suite NOT IN ('needle', 'ruler', 'skill', 'perplexity', 'divergence')
)
SELECT role, target, base, rank, scale, suite, task, coalesce(scoring, '') AS scoring, length, share,
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
