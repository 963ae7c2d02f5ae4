-- Divergence from the original fine-tune: mean KL over prompts with standard deviation, and the share of positions at
-- which both models rank the same token first. Values of several donors for one prompt are averaged first. Prompts may
-- differ in length. What was measured against another model is left out (unmeasured.sql lists it).
WITH prompts AS (
    SELECT role, target, CASE WHEN role = 'base' THEN model_digest END AS base, rank, scale, task, length, seed, document, sample_index, recipe,
           avg(score) AS kl, avg(agreement) AS agreement, avg(tokens) AS tokens
    FROM placed
    WHERE suite = 'divergence' AND status = 'ok' AND reference_digest = target
    GROUP BY ALL
)
SELECT role, target, base, rank, scale, task,
       min(length) AS shortest,
       max(length) AS longest,
       count(*) AS n,
       avg(kl) AS mean,
       coalesce(stddev_samp(kl), 0) AS deviation,
       avg(agreement) AS agreement,
       coalesce(stddev_samp(agreement), 0) AS agreement_deviation,
       CAST(round(sum(tokens)) AS BIGINT) AS tokens
FROM prompts
GROUP BY ALL
ORDER BY ALL
