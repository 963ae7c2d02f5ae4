-- Nats per token by position and over the whole window: mean over documents, standard deviation and number of documents.
-- Values of several donors for one document are averaged first. `position` is null for the whole window.
WITH scored AS (
    SELECT *, CASE WHEN role = 'base' THEN model_digest END AS base FROM placed WHERE suite = 'perplexity' AND status = 'ok'
),
documents AS (
    SELECT role, target, base, rank, scale, task, length, position, seed, document, sample_index, recipe,
           sum(score * tokens) / sum(tokens) AS nats, sum(tokens) AS tokens
    FROM scored
    GROUP BY ALL
    UNION ALL
    SELECT role, target, base, rank, scale, task, length, NULL, seed, document, NULL, recipe,
           sum(score * tokens) / sum(tokens), sum(tokens)
    FROM scored
    GROUP BY ALL
)
SELECT role, target, base, rank, scale, task, length, position,
       count(*) AS n, avg(nats) AS mean, coalesce(stddev_samp(nats), 0) AS deviation, CAST(sum(tokens) AS BIGINT) AS tokens
FROM documents
GROUP BY ALL
ORDER BY ALL
