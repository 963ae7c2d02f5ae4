-- Why windows of perplexity and prompts of divergence have no score.
WITH missing AS (
    SELECT role, target, model_digest, rank, scale, suite, task, length, status, reason
    FROM placed
    WHERE suite IN ('perplexity', 'divergence') AND status <> 'ok'
    UNION ALL
    SELECT role, target, model_digest, rank, scale, suite, task, length, 'left out', 'measured from another model than the fine-tune'
    FROM placed
    WHERE suite = 'divergence' AND status = 'ok' AND reference_digest IS DISTINCT FROM target
)
SELECT role, target, CASE WHEN role = 'base' THEN model_digest END AS base, rank, scale, suite, task, length, status,
       count(*) AS samples, min(reason) AS reason
FROM missing
GROUP BY ALL
ORDER BY ALL
