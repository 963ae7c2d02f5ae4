-- Why windows of perplexity and prompts of divergence have no figure.
SELECT role, target, CASE WHEN role = 'base' THEN model_digest END AS base, rank, scale, suite, task, length, status,
       count(*) AS samples, min(reason) AS reason
FROM placed
WHERE suite IN ('perplexity', 'divergence') AND status <> 'ok'
GROUP BY ALL
ORDER BY ALL
